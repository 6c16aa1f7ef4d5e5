"""What changed between two messages."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from echo_core.runtime.message_history.differences import MOST, differences


def told(before: Any, after: Any) -> list[tuple[str, str, Any, Any]]:
    return [(each.path, each.kind, each.before, each.after) for each in differences(before, after)]


def test_what_was_added_removed_and_changed() -> None:
    before = {"text": "um hello", "speaker": "Ann", "times": [1, 2, 3]}
    after = {"text": "hello", "lang": "en", "times": [1, 5]}
    assert told(before, after) == [
        ("text", "changed", "um hello", "hello"),
        ("speaker", "removed", "Ann", None),
        ("times[1]", "changed", 2, 5),
        ("times[2]", "removed", 3, None),
        ("lang", "added", None, "en"),
    ]


def test_another_type_is_a_change_of_the_whole() -> None:
    assert told({"a": 1}, [1]) == [("", "changed", {"a": 1}, [1])]
    assert told({"a": 1}, {"a": True}) == [("a", "changed", 1, True)]


def test_they_are_bounded() -> None:
    assert len(differences(list(range(1_000)), [])) == MOST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=10,
)


@given(one=JSON, other=JSON)
def test_there_are_none_exactly_when_they_are_the_same(one: Any, other: Any) -> None:
    assert differences(one, one) == []
    assert bool(differences(one, other)) == (repr(one) != repr(other)) or one == other
