"""How message spans are written, by both implementations: in Python, and in C where this is compiled."""

from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common_telemetry.engines.fast.pile import Pile
from common_telemetry.engines.fast.wire import double, fixed64
from telemetry.test_primitives import implementations, kind_of

IMPLEMENTATIONS = list(implementations("layout"))
TRACE_ID, SPAN_ID, PARENT_ID = bytes(range(16)), bytes(range(20, 28)), bytes(range(30, 38))
# One character of each length that UTF-8 has.
texts = st.text(st.sampled_from("aß€𝄞"), max_size=20)


@pytest.fixture(params=IMPLEMENTATIONS, ids=kind_of)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


def layout_for(twin: Any, message: str, root: str, parent: str, *, has_more: bool) -> Any:
    """A layout with, after each field, as many bytes as it has fields before it, and a bar."""
    lengths = [len(text.encode()) for text in (message, root, parent, message)]
    forms = ["16s", "8s", "8s", "Q", "Q", *(f"{length}s" for length in lengths), "0s"]
    if has_more:
        forms += ["d", "16s", "8s", "0s"]
    parts: list[bytes | str] = [b"<"]
    for number, form in enumerate(forms):
        parts += [form, bytes([number]) * number + b"|"]
    return twin.Layout(parts)


def joined(fields: list[bytes]) -> bytes:
    return b"<" + b"".join(field + bytes([at]) * at + b"|" for at, field in enumerate(fields))


def content_of(pile: Pile) -> bytes:
    taken = pile.take(10, 1_000_000, lambda item: None)
    assert taken.count == 1
    ((origin, parts),) = taken.content.items()
    assert origin == "origin"
    return bytes(taken.joined(parts))


@given(
    message=texts.filter(bool),
    root=texts,
    parent=texts,
    start=st.integers(0, 2**63 - 1),
    end=st.integers(0, 2**63 - 1),
    waited=st.floats(),
)
def test_each_field_is_written_where_it_belongs(
    message: str, root: str, parent: str, start: int, end: int, waited: float
) -> None:
    ids_as_bytes = [text.encode() for text in (message, root, parent, message)]
    fields = [TRACE_ID, SPAN_ID, PARENT_ID, fixed64(start), fixed64(end), *ids_as_bytes, b""]
    more = [double(waited), TRACE_ID, PARENT_ID, b""]
    for twin in IMPLEMENTATIONS:
        pile = Pile(10, 5)
        given_ = (pile, "origin", TRACE_ID, SPAN_ID, PARENT_ID, start, end)
        ids = twin.ids_of(message, root, (parent,))
        layout_for(twin, message, root, parent, has_more=False).write(*given_, ids)
        assert content_of(pile) == joined(fields)
        layout_for(twin, message, root, parent, has_more=True).write(*given_, ids, waited)
        assert content_of(pile) == joined(fields + more)


def test_what_does_not_fit_is_not_written_beyond_its_place(twin: Any) -> None:
    layout, pile = layout_for(twin, "four", "", "", has_more=False), Pile(10, 5)
    fits, too_long = twin.ids_of("four", "", ("",)), twin.ids_of("many more than four", "", ("",))
    layout.write(pile, "origin", TRACE_ID, SPAN_ID, PARENT_ID, 1, 2, fits)
    expected = len(content_of(pile))
    try:
        layout.write(pile, "origin", TRACE_ID, SPAN_ID, PARENT_ID, 1, 2, too_long)
    except ValueError:
        assert len(pile) == 0
        return
    assert len(content_of(pile)) == expected


def write_some(twin: Any, pile: Pile, count: int) -> list[bytes]:
    """Spans of layouts that are gone at the end, and among them what is in its bytes already."""
    layout, ids, expected = layout_for(twin, "id", "", "", has_more=False), twin.ids_of("id", "", ("",)), []
    for at in range(count):
        fields = [TRACE_ID, SPAN_ID, PARENT_ID, fixed64(at), fixed64(at + 1), b"id", b"", b"", b"id", b""]
        if at % 5:
            layout.write(pile, "origin", TRACE_ID, SPAN_ID, PARENT_ID, at, at + 1, ids)
            expected.append(joined(fields))
        else:
            pile.write("origin", written := bytes([at % 256]) * (at % 300))
            expected.append(written)
    return expected


@pytest.mark.parametrize(("most", "most_bytes"), [(7, 1_000_000), (5_000, 1_000), (100_000, 10_000_000)])
def test_spans_come_out_in_their_order_and_by_the_size_they_are_sent_in(
    most: int, most_bytes: int, twin: Any
) -> None:
    pile = Pile(100_000, 64)
    expected = write_some(twin, pile, 3_000)
    found: list[bytes] = []
    while len(pile):
        taken = pile.take(most, most_bytes, lambda item: None)
        wanted, size = 0, 0
        while wanted < min(most, len(expected)) and size < most_bytes:
            size += len(expected[wanted])
            wanted += 1
        assert taken.count == wanted
        assert bytes(taken.joined(taken.content["origin"])) == b"".join(expected[:wanted])
        found, expected = found + expected[:wanted], expected[wanted:]
    assert (len(found), expected) == (3_000, [])


@given(message=texts.filter(bool), root=texts, parents=st.lists(texts, max_size=1).map(tuple))
def test_a_shape_is_the_lengths_of_ids_as_they_are_written(
    message: str, root: str, parents: tuple[str, ...]
) -> None:
    for twin in IMPLEMENTATIONS:
        parent = len(parents[0].encode()) + 1 if parents else 0
        near = twin.ids_of(root or "x", root, ())
        for ids in (twin.ids_of(message, root, parents), twin.ids_of(message, root, parents, near)):
            assert (ids.message_id, ids.root_id, ids.parent_ids) == (message, root, parents)
            length = 1 << twin.BITS
            assert ids.shape == (len(message.encode()) * length + len(root.encode())) * length + parent


@pytest.mark.parametrize(
    "given_",
    [
        ("", "root", ()),
        (None, "root", ()),
        (17, "root", ()),
        (b"id", "root", ()),
        ("id", None, ()),
        ("id", "root", ("a", "b")),
        ("id", "root", (17,)),
        ("id", "root", 17),
        ("\ud800", "root", ()),
        ("id", "\ud800", ()),
        ("id", "root", ("\ud800",)),
        ("x" * 1_002, "", ()),
        ("ü" * 501, "", ()),
        ("x" * 400, "x" * 400, ("x" * 201,)),
    ],
)
def test_there_is_no_form_for_what_is_no_text_or_much_or_several_parents(
    twin: Any, given_: tuple[Any, ...]
) -> None:
    assert twin.ids_of(*given_) is None


def test_two_implementations_agree_on_the_limits() -> None:
    first: ModuleType = IMPLEMENTATIONS[0]
    for other in IMPLEMENTATIONS[1:]:
        assert (other.LONGEST, other.BITS) == (first.LONGEST, first.BITS)
