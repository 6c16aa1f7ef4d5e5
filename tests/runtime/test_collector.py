"""The garbage collector while a host runs."""

import gc
from collections.abc import Iterator

import pytest

from echo_core.runtime.collector import patient_collector


@pytest.fixture
def thawed() -> Iterator[None]:
    """The tests' own objects are frozen otherwise; see `tests/conftest.py`."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_what_was_there_is_left_alone_and_all_is_as_before_in_the_end() -> None:
    before = gc.get_threshold()
    with patient_collector():
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() > before
    assert (gc.get_freeze_count(), gc.get_threshold()) == (0, before)


@pytest.mark.usefixtures("thawed")
def test_what_was_frozen_before_stays_so() -> None:
    gc.freeze()
    with patient_collector():
        pass
    assert gc.get_freeze_count() > 0
