"""Offsets move only over finished prefixes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core import Ending, FinishedPrefix, PluginError


def test_the_worst_of_two_endings_is_the_greater() -> None:
    assert max(Ending.PROCESSED, Ending.FILTERED) is Ending.FILTERED
    assert max(Ending) is Ending.UNFINISHED
    assert min(Ending) is Ending.PROCESSED


def test_a_position_is_finished_when_all_that_began_at_it_has_ended() -> None:
    prefix = FinishedPrefix[int]()
    for key in "abc":
        prefix.begin(key, 7)
    assert [prefix.end("b"), prefix.end("a"), prefix.end("c")] == [None, None, 7]


def test_a_key_that_never_began_changes_nothing_and_one_that_has_not_ended_cannot_begin() -> None:
    prefix = FinishedPrefix[int]()
    assert prefix.end("a") is None
    prefix.begin("a", 1)
    with pytest.raises(PluginError, match="has begun already"):
        prefix.begin("a", 2)
    assert (prefix.end("a"), prefix.end("a"), prefix.unfinished) == (1, None, 0)


@given(positions=st.lists(st.integers(0, 20), max_size=30).map(sorted), data=st.data())
def test_the_position_is_the_one_before_the_first_that_is_unfinished(
    positions: list[int], data: st.DataObject
) -> None:
    """Against a model that looks at everything each time."""
    prefix = FinishedPrefix[int]()
    begun: list[int] = []
    ended: set[int] = set()
    reached = None
    to_begin = list(range(len(positions)))
    while to_begin or len(ended) < len(begun):
        open_keys = [key for key in begun if key not in ended]
        # All of one position begin before one of them ends, as the class asks for.
        must_begin = bool(to_begin and begun and positions[to_begin[0]] == positions[begun[-1]])
        if must_begin or (to_begin and (not open_keys or data.draw(st.booleans()))):
            key = to_begin.pop(0)
            prefix.begin(key, positions[key])
            begun.append(key)
            continue
        key = data.draw(st.sampled_from(open_keys))
        moved = prefix.end(key)
        ended.add(key)
        finished = [k for i, k in enumerate(begun) if all(j in ended for j in begun[: i + 1])]
        unfinished_positions = {positions[k] for k in begun if k not in ended}
        expected = max(
            (positions[k] for k in finished if positions[k] not in unfinished_positions), default=None
        )
        assert moved == (expected if expected != reached else None)
        reached = expected
    assert prefix.unfinished == 0
