"""When a process that died is started again."""

from hypothesis import given
from hypothesis import strategies as st

from echo_core.runtime.isolation.crashes import ALLOWED, CrashRecord


def highest(bound: float) -> float:
    return bound


def test_the_first_crash_is_followed_by_a_start_at_once_and_then_the_wait_doubles() -> None:
    record = CrashRecord(highest)
    record.ready(0.0)
    assert [record.crashed(float(second)) for second in range(5)] == [0.0, 0.25, 0.5, 1.0, 2.0]


def test_too_many_crashes_in_two_minutes_are_the_end() -> None:
    record = CrashRecord(highest)
    delays = [record.crashed(float(second)) for second in range(ALLOWED + 1)]
    assert delays[:-1] == [0.0, 0.25, 0.5, 1.0, 2.0]
    assert delays[-1] is None


def test_a_process_that_was_ready_for_a_minute_begins_anew() -> None:
    record = CrashRecord(highest)
    for second in range(3):
        record.crashed(float(second))
    record.ready(10.0)
    assert record.crashed(70.0) == 0.0


def test_crashes_that_are_far_apart_never_end_it_and_the_wait_has_a_bound() -> None:
    record = CrashRecord(highest)
    delays = [record.crashed(60.0 * number) for number in range(40)]
    assert None not in delays
    assert delays[-1] == 30.0


@given(waits=st.lists(st.floats(0, 200), max_size=30))
def test_the_wait_is_never_negative_and_never_longer_than_thirty_seconds(waits: list[float]) -> None:
    record, now = CrashRecord(), 0.0
    for wait in waits:
        now += wait
        delay = record.crashed(now)
        assert delay is None or 0.0 <= delay <= 30.0
