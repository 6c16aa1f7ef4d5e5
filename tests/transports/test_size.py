"""How large messages are taken to be."""

from hypothesis import given
from hypothesis import strategies as st

from echo_core.message import BaseMessage
from echo_core.transports.size import OVERHEAD, TypicalSize, size_of


def test_a_message_is_as_large_as_its_data_and_a_little_more() -> None:
    assert size_of(BaseMessage(source="test", data=b"x" * 10_000)) in range(10_000, 10_010 + OVERHEAD)
    assert size_of(BaseMessage(source="test")) == 1 + OVERHEAD


def test_what_cannot_be_encoded_has_a_size_too() -> None:
    endless: list[object] = []
    endless.append(endless)
    for data in (object(), endless, {"text": object()}):
        assert size_of(BaseMessage(source="test", data=data)) > OVERHEAD


@given(sizes=st.lists(st.integers(0, 100_000), min_size=1, max_size=50))
def test_the_typical_size_is_among_the_sizes_and_follows_a_rise_at_once(sizes: list[int]) -> None:
    typical = TypicalSize()
    for size in sizes:
        before = typical.bytes
        typical.see(BaseMessage(source="test", data=b"x" * size))
        assert min(before, size) <= typical.bytes <= max(before, size + 5 + OVERHEAD)
        assert typical.bytes >= size / 2


def test_it_says_when_the_typical_size_has_changed_notably() -> None:
    typical, small, large = (
        TypicalSize(),
        BaseMessage(source="test"),
        BaseMessage(source="test", data=b"x" * 9_000),
    )
    assert not any(typical.see(small) for _ in range(10))
    assert typical.see(large)
    assert [typical.see(large) for _ in range(20)][-10:] == [False] * 10
    assert any(typical.see(small) for _ in range(10))
