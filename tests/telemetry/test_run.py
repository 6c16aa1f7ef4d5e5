"""Measurements that wait to be taken in, by both implementations: in Python, and in C where compiled."""

import gc
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.test_primitives import implementations, kind_of

IMPLEMENTATIONS = list(implementations("run"))
TRACE_ID, SPAN_ID = bytes(range(16)), bytes(range(8))


@pytest.fixture(params=IMPLEMENTATIONS, ids=kind_of)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


notes = st.tuples(
    st.integers(0, 2**62),
    st.one_of(st.just(-1.0), st.floats(0, 1e9)),
    st.text(max_size=5),
    st.sampled_from([None, TRACE_ID]),
    st.just(SPAN_ID),
    st.integers(0, 2**62),
)


@given(made=st.lists(notes, max_size=20), more=st.lists(notes, max_size=3))
def test_what_was_noted_is_taken_once_and_in_order(made: list[Any], more: list[Any]) -> None:
    for twin in IMPLEMENTATIONS:
        run = twin.Run(4)
        assert [run.note(*note) for note in made] == [count >= 4 for count in range(1, len(made) + 1)]
        noted = run.take()
        for note in more:
            run.note(*note)
        assert (len(noted), len(run)) == (len(made), len(more))
        for ns in (1e6, 1e9):
            assert list(noted.durations(ns)) == [note[0] / ns for note in made]
        waits, which = noted.waits()
        assert list(which) == [at for at, note in enumerate(made) if note[1] >= 0]
        assert list(waits) == [note[1] for note in made if note[1] >= 0]
        assert noted.has_samples() == any(note[3] for note in made)
        assert [noted.sample(at) for at in range(len(made))] == [
            (now_ns, trace_id, span_id, message_id) if trace_id else None
            for _, _, message_id, trace_id, span_id, now_ns in made
        ]
        assert list(run.take().durations(1.0)) == [note[0] / 1.0 for note in more]


def test_there_is_no_measurement_beyond_the_last(twin: Any) -> None:
    run = twin.Run(4)
    run.note(1, 0.0, "m1", None, SPAN_ID, 2)
    noted = run.take()
    with pytest.raises(IndexError):
        noted.sample(1)


def test_nothing_is_kept_of_what_was_taken(twin: Any) -> None:
    message_id = "".join(["an id", " of its own"])
    gc.collect()
    before = sys.getrefcount(message_id)
    run = twin.Run(4)
    for number in range(10):
        run.note(number, 0.0, message_id, TRACE_ID, SPAN_ID, number)
    noted = run.take()
    assert noted.sample(3)[3] is message_id
    run.note(1, 0.0, message_id, None, SPAN_ID, 1)
    assert sys.getrefcount(message_id) > before
    del noted, run
    gc.collect()
    assert sys.getrefcount(message_id) == before
