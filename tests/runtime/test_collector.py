"""The garbage collector while a host runs."""

import gc

from echo_core.runtime.collector import patient_collector


def test_what_was_there_is_left_alone_and_all_is_as_before_in_the_end() -> None:
    before = gc.get_threshold()
    with patient_collector():
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() > before
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)
