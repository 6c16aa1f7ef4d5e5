"""What of a partition is settled, and how it is written into a commit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.transports.kafka.progress import Progress


def delivered(*offsets: int, since: int = 0) -> Progress:
    progress = Progress(since)
    for offset in offsets:
        progress.deliver(offset)
    return progress


def again(progress: Progress) -> Progress:
    """The progress that another host reads from the commit."""
    return Progress(*progress.commit())


def test_the_offset_moves_over_what_is_settled_from_the_start() -> None:
    progress = delivered(0, 1, 2, 3)
    progress.settle(2)
    assert progress.commit() == (0, "echo1;4;0+2x1;3+1x1")
    progress.settle(0)
    assert progress.committed == 1
    progress.settle(1)
    assert progress.commit() == (3, "echo1;1;0+1x1")
    progress.settle(3)
    assert progress.commit() == (4, "")


def test_another_host_skips_what_was_settled_and_goes_on_counting() -> None:
    progress = delivered(5, 6, 7, since=5)
    progress.settle(6)
    assert progress.deliver(5) == 2
    taken_over = again(progress)
    assert [taken_over.deliver(offset) for offset in (5, 6, 7, 8)] == [3, None, 2, 1]


def test_what_nobody_looked_at_was_no_attempt() -> None:
    progress = delivered(0, 1)
    progress.take_back(1)
    assert [again(progress).deliver(offset) for offset in (0, 1)] == [2, 1]


def test_offsets_without_a_message_are_passed_over() -> None:
    progress = delivered(3, 7)
    progress.settle(3)
    assert progress.committed == 7
    progress.settle(7)
    assert progress.commit() == (8, "")


@pytest.mark.parametrize("note", ["", "somebody else's", "echo0;1;2", ";;", "echo1"])
def test_a_note_that_is_not_ours_is_none(note: str) -> None:
    assert Progress(7, note).deliver(7) == 1


def test_a_note_that_would_be_too_long_forgets_the_newest() -> None:
    progress = delivered(*range(10_000))
    for offset in range(1, 10_000, 2):
        progress.settle(offset)
    offset, note = progress.commit()
    assert offset == 0
    assert len(note) < 4_096
    taken_over = Progress(offset, note)
    assert 100 < taken_over.next < 10_000
    assert taken_over.deliver(0) == 2
    assert taken_over.deliver(1) is None
    assert taken_over.deliver(taken_over.next) == 1


ACTIONS = st.lists(st.tuples(st.sampled_from(["deliver", "settle", "take back", "move"]), st.integers(0, 15)))


@given(ACTIONS)
def test_it_says_what_a_simple_list_says(actions: list[tuple[str, int]]) -> None:
    """Beside a dictionary of attempts and a set of what is settled, through any number of hosts."""
    progress, attempts, settled, following = Progress(0), dict[int, int](), set[int](), 0
    for action, offset in actions:
        if action == "deliver":
            offset = min(offset, following)  # Kafka leaves nothing out
            expected = None if offset in settled else attempts.get(offset, 0) + 1
            assert progress.deliver(offset) == expected
            if expected:
                attempts[offset] = expected
                following = max(following, offset + 1)
        elif action == "settle" and offset < following:
            progress.settle(offset)
            settled.add(offset)
        elif action == "take back" and attempts.get(offset, 0) and offset not in settled:
            progress.take_back(offset)
            attempts[offset] -= 1
        elif action == "move":
            progress = again(progress)
        unsettled = [one for one in range(following) if one not in settled]
        assert progress.committed == min(unsettled, default=following)
        assert progress.open == len(unsettled)
