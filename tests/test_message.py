import contextlib
import itertools
import time
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.errors import MessageError
from echo_core.message import (
    MAX_RECEIPTS,
    BaseMessage,
    Receipt,
    decode,
    derived_receipts,
    encode,
    merged_receipts,
    new_id,
    new_ids,
)
from strategies import messages


def a_message(data: Any = None) -> BaseMessage:
    return BaseMessage(source="microphone", data=data)


def lineage(length: int) -> list[BaseMessage]:
    """A first message, and each next one made from the one before."""
    made = [a_message(0)]
    for number in range(1, length):
        made.append(made[-1].derive(number, source=f"plugin_{number}"))
    return made


@pytest.mark.parametrize("field", BaseMessage.__struct_fields__)
def test_no_field_of_a_message_can_be_set(field: str) -> None:
    message = a_message()
    with pytest.raises(AttributeError, match="immutable"):
        setattr(message, field, "other")


def test_no_field_of_a_receipt_can_be_set() -> None:
    receipt = Receipt(message_id="1", source="a", hop=1)
    with pytest.raises(AttributeError, match="immutable"):
        receipt.hop = 2  # type: ignore[misc]


def test_a_message_knows_when_it_was_made() -> None:
    before = time.time_ns()
    message = a_message()
    assert before <= message.timestamp <= time.time_ns()


def test_its_time_for_people_is_utc_to_the_microsecond() -> None:
    message = BaseMessage(source="a", timestamp=1_700_000_000_123_456_789)
    assert message.time == datetime(2023, 11, 14, 22, 13, 20, 123457, tzinfo=UTC)


def test_two_messages_never_share_a_trace_context() -> None:
    assert a_message().trace_context is not a_message().trace_context


def test_ids_are_version_7_uuids_that_sort_in_the_order_they_were_made() -> None:
    ids = [new_id() for _ in range(2_000)]
    assert ids == sorted(set(ids))
    assert {UUID(one).version for one in ids} == {7}


def test_an_id_begins_with_its_time_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    made_ms = UUID(new_id()).int >> 80
    assert before <= made_ms <= time.time_ns() // 1_000_000


@given(message=messages())
def test_a_message_comes_back_from_its_bytes_as_it_was(message: BaseMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data", [datetime(2024, 2, 29, 12, tzinfo=UTC), b"\x00\xff", {1: "one"}, [1.5, None]]
)
def test_data_beyond_json_survives_the_bytes(data: Any) -> None:
    assert decode(encode(a_message(data))).data == data


def test_structs_and_dates_are_carried_as_plain_values() -> None:
    class Segment(msgspec.Struct):
        text: str

    assert decode(encode(a_message([Segment("hi"), date(2024, 2, 29)]))).data == [
        {"text": "hi"},
        "2024-02-29",
    ]


def test_a_message_with_fields_of_a_later_version_can_still_be_read() -> None:
    known = msgspec.to_builtins(a_message("hello"))
    raw = msgspec.msgpack.encode({**known, "added_later": 1})
    assert decode(raw).data == "hello"


def circular() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@pytest.mark.parametrize(
    ("data", "place", "why"),
    [
        (object(), "data", "type object"),
        ({"words": [{"start": 1.0}, {"start": 1j}]}, "data['words'][1]['start']", "type complex"),
        ({"size": 2**70}, "data['size']", "2**64"),
        (["fine", "\ud800"], "data[1]", "surrogates"),
        (({"a": {"b": {object}}},), "data[0]['a']['b']", "type type"),
        ({"a": {(1, 2): object()}}, "data['a'][(1, 2)]", "object"),
        ({object(): 1}, "data", "object"),
    ],
)
def test_data_that_cannot_be_encoded_is_refused_with_its_place(data: Any, place: str, why: str) -> None:
    message = a_message(data)
    with pytest.raises(MessageError) as refused:
        encode(message)
    assert refused.value.where == f"message {message.id} from microphone, {place}"
    assert why in refused.value.why
    assert "JSON-like" in refused.value.fix


def test_data_that_contains_itself_is_refused_and_not_followed_for_ever() -> None:
    with pytest.raises(MessageError, match="recursion"):
        encode(a_message(circular()))


@given(raw=st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused_with_a_message_error(raw: bytes) -> None:
    with pytest.raises(MessageError, match="the bytes are no message"):
        decode(raw)


@given(message=messages(), data=st.data())
def test_damaged_bytes_are_decoded_or_refused_and_nothing_else(
    message: BaseMessage, data: st.DataObject
) -> None:
    raw = bytearray(encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for damaged in (bytes(raw), bytes(raw[:cut])):
        with contextlib.suppress(MessageError):
            assert isinstance(decode(damaged), BaseMessage)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x81\xa4data\xdd\xff\xff\xff\xff",
        b"\x81\xa4data\xdf\xff\xff\xff\xff",
        b"\x81\xa4data\xc6\xff\xff\xff\xff",
        b"\x81\xa4data" + b"\x91" * 100_000,
    ],
    ids=["array of 2**32", "map of 2**32", "4 GiB of bytes", "100,000 levels"],
)
def test_bytes_that_promise_more_than_they_hold_are_refused(raw: bytes) -> None:
    with pytest.raises(MessageError) as refused:
        decode(raw)
    assert refused.value.where.startswith(f"{len(raw)} bytes that begin with b")
    assert len(str(refused.value)) < 400


def test_a_derived_message_is_a_new_one_with_a_receipt_for_the_old() -> None:
    original = BaseMessage(source="microphone", version="1.0", data="raw", schema="segment/1")
    derived = original.derive("made", source="shouter", version="2.0", schema="caption/1")
    assert derived.receipts == (Receipt(message_id=original.id, source="microphone", hop=1),)
    assert (derived.data, derived.source, derived.version, derived.schema) == (
        "made",
        "shouter",
        "2.0",
        "caption/1",
    )
    assert derived.id != original.id
    assert derived.trace_context == {}
    assert original.receipts == ()


def test_a_message_made_from_none_is_its_own_root_and_has_no_parents() -> None:
    message = a_message()
    assert (message.root_id, message.parent_ids) == (message.id, ())


@given(length=st.integers(2, 3 * MAX_RECEIPTS))
def test_every_message_of_a_lineage_knows_its_parent_and_the_first_of_all(length: int) -> None:
    made = lineage(length)
    for parent, child in itertools.pairwise(made):
        assert child.parent_ids == (parent.id,)
        assert child.root_id == made[0].id


@given(length=st.integers(1, 3 * MAX_RECEIPTS))
def test_a_lineage_keeps_its_first_receipt_and_the_newest_ones(length: int) -> None:
    made = lineage(length + 1)
    kept = [receipt.message_id for receipt in made[-1].receipts]
    ancestors = [message.id for message in made[:-1]]
    if length <= MAX_RECEIPTS:
        assert kept == ancestors
    else:
        assert kept == [ancestors[0], *ancestors[-(MAX_RECEIPTS - 1) :]]


def test_hops_count_on_beyond_the_receipts_that_are_kept() -> None:
    hops = [receipt.hop for receipt in lineage(MAX_RECEIPTS + 11)[-1].receipts]
    assert hops == [1, *range(12, MAX_RECEIPTS + 11)]


def test_a_message_made_from_several_has_them_all_as_parents() -> None:
    def receipt(message_id: str, hop: int) -> Receipt:
        return Receipt(message_id=message_id, source="plugin", hop=hop)

    merged = BaseMessage(
        source="joiner", receipts=(receipt("first", 1), receipt("left", 2), receipt("right", 2))
    )
    assert merged.parent_ids == ("left", "right")
    assert merged.root_id == "first"
    assert merged.derive("on", source="next").parent_ids == (merged.id,)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 2_000])
def test_many_ids_are_uuid7_and_in_order_before_and_after_all_others(count: int) -> None:
    before, ids, after = new_id(), new_ids(count), new_id()
    assert len(ids) == count
    assert {UUID(one).version for one in ids} <= {7}
    assert [before, *ids, after] == sorted({before, *ids, after})


@given(made=st.lists(messages(), max_size=5))
def test_receipts_for_many_are_those_of_each(made: list[BaseMessage]) -> None:
    made += [lineage(MAX_RECEIPTS + 3)[-1], lineage(2)[-1]]
    assert derived_receipts(made) == [message.receipts_for_derived() for message in made]


def test_a_merged_message_names_each_it_was_made_from_after_the_lineage_of_the_first() -> None:
    first, second = lineage(3)[-1], a_message()
    merged = BaseMessage(source="joiner", receipts=merged_receipts([first, second]))
    assert merged.parent_ids == (first.id, second.id)
    assert merged.root_id == first.root_id
    assert merged.receipts[:2] == first.receipts


def test_however_many_are_merged_all_are_named_and_the_root_is_kept() -> None:
    many = [lineage(MAX_RECEIPTS)[-1] for _ in range(2 * MAX_RECEIPTS)]
    merged = BaseMessage(source="joiner", receipts=merged_receipts(many))
    assert merged.parent_ids == tuple(message.id for message in many)
    assert merged.root_id == many[0].root_id
    assert len(merged.receipts_for_derived()) == MAX_RECEIPTS
