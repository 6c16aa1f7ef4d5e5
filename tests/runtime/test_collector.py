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


@pytest.mark.usefixtures("thawed")
def test_short_of_a_full_collection_no_more_is_looked_at_than_ten_milliseconds_allow() -> None:
    looked_at: list[int] = []

    def note(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] < 2:
            young = range(about["generation"] + 1)
            looked_at.append(sum(len(gc.get_objects(generation)) for generation in young))

    gc.callbacks.append(note)
    try:
        with patient_collector():
            kept = [[number] for number in range(400_000)]
    finally:
        gc.callbacks.remove(note)
    assert len(kept) == 400_000
    assert len(looked_at) > 20
    assert max(looked_at) < 40_000
