"""The judgement over signs of life; time is counted, not waited for."""

from collections.abc import Callable

import pytest

from echo_core.runtime.isolation.limits import Limits
from echo_core.runtime.isolation.liveness import INTERVAL_S, Liveness, Signs, Verdict

Life = Callable[[int], Signs]


def verdicts(life: Life, seconds: float, limits: Limits | None = None) -> tuple[list[Verdict], Liveness]:
    """The verdicts of so many seconds, one after another, until it is to be killed."""
    liveness, found = Liveness(limits or Limits(), 0.0), list[Verdict]()
    for turn in range(1, int(seconds / INTERVAL_S) + 1):
        found.append(liveness.judge(turn * INTERVAL_S, life(turn)))
        if found[-1] is Verdict.KILL:
            break
    return found, liveness


def test_a_process_whose_beats_go_on_is_well() -> None:
    found, liveness = verdicts(lambda turn: Signs(turn, turn, resident_mb=100.0), 60)
    assert set(found) == {Verdict.WELL}
    assert liveness.reason == ""


def test_a_blocked_loop_has_its_stacks_taken_and_is_killed() -> None:
    found, liveness = verdicts(lambda turn: Signs(1, turn), 60)
    assert len(found) * INTERVAL_S == pytest.approx(10.5, abs=0.5)
    assert found.count(Verdict.TAKE_STACKS) == 1
    assert found.index(Verdict.TAKE_STACKS) * INTERVAL_S == pytest.approx(5.0, abs=0.5)
    assert "event loop was blocked" in liveness.reason
    assert "interpreter" not in liveness.reason


def test_where_no_thread_gets_its_share_the_reason_says_so() -> None:
    found, liveness = verdicts(lambda turn: Signs(1, 1), 60, Limits(block_s=3.0))
    assert found[-1] is Verdict.KILL
    assert len(found) * INTERVAL_S == pytest.approx(3.5, abs=0.5)
    assert "holds the interpreter's lock" in liveness.reason


def test_a_loop_that_was_blocked_for_a_while_is_forgiven() -> None:
    found, _ = verdicts(lambda turn: Signs(turn // 30, turn), 60)
    assert Verdict.KILL not in found
    assert found.count(Verdict.TAKE_STACKS) > 1


def test_a_stopped_process_is_killed_soon() -> None:
    found, liveness = verdicts(lambda turn: Signs(1, 1, is_stopped=True), 60)
    assert len(found) * INTERVAL_S < 4.0
    assert "SIGSTOP" in liveness.reason


def test_memory_is_bounded_softly_and_then_hard() -> None:
    found, liveness = verdicts(
        lambda turn: Signs(turn, turn, resident_mb=turn * 10.0), 60, Limits(memory_mb=100)
    )
    assert found == [Verdict.WELL] * 8 + [Verdict.REPLACE] * 2 + [Verdict.KILL]
    assert "110 MiB" in liveness.reason


def test_too_many_processes_are_the_end() -> None:
    found, liveness = verdicts(lambda turn: Signs(turn, turn, processes=turn), 60, Limits(processes=30))
    assert (len(found), found[-1]) == (31, Verdict.KILL)
    assert "more than 30 processes" in liveness.reason


def test_no_limit_is_no_limit() -> None:
    found, _ = verdicts(lambda turn: Signs(turn, turn, resident_mb=1e6), 5, Limits(memory_mb=0))
    assert set(found) == {Verdict.WELL}


def test_a_host_that_was_late_itself_blames_nobody() -> None:
    liveness = Liveness(Limits(), 0.0)
    now = 0.0
    for _ in range(8):  # each time the host itself did not get to it for 20 seconds
        now += 20.0
        assert liveness.judge(now, Signs(1, 1, is_stopped=True)) is not Verdict.KILL
