"""Frames: whatever is sent arrives however the stream is cut, and nothing else is taken for a frame."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core import BaseMessage
from echo_core.message import encode
from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.wire import FROM_HOST, FROM_PROCESS, FrameReader, ProtocolError

data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def work(*values: object) -> wire.Work:
    items = [
        wire.Item(number, "a.b", 1, "", msgspec.Raw(encode(BaseMessage(source="test", data=value))))
        for number, value in enumerate(values, 1)
    ]
    return wire.Work(0, 1, items)


@given(values=st.lists(data, min_size=1, max_size=5), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_work_arrives_however_the_stream_is_cut(values: list[object], cuts: list[int]) -> None:
    stream = bytes(wire.frame(wire.WORK, work(*values), 7) + wire.frame(wire.STATUS, "running", 7))
    reader = FrameReader(FROM_HOST, 7)
    found, position, turn = [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += list(reader.read(stream[position : position + size]))
        position, turn = position + size, turn + 1
    (kind, body), (_, status) = found
    assert kind == wire.WORK
    assert [item.message.data for item in body.items] == values
    assert status == "running"


def test_a_result_brings_its_outputs_and_its_failure() -> None:
    message = BaseMessage(source="test", data={"n": 1})
    sent = [
        wire.Result(1, wire.ACKNOWLEDGED, [wire.Output("out", msgspec.Raw(encode(message)))]),
        wire.Result(2, wire.RAISED, [], wire.Failure("ValueError", "no", "frames", 1.5, "00-a-b-01")),
    ]
    ((_, received),) = FrameReader(FROM_PROCESS, 1).read(bytes(wire.frame(wire.RESULTS, sent, 1)))
    assert received[0].outputs[0].message == message
    assert received[1].failure == wire.Failure("ValueError", "no", "frames", 1.5, "00-a-b-01")


def test_frames_of_another_incarnation_are_dropped_and_counted() -> None:
    reader = FrameReader(FROM_PROCESS, 2)
    stale, fresh = wire.frame(wire.ANSWER, wire.Answer(1), 1), wire.frame(wire.ANSWER, wire.Answer(2), 2)
    assert [body.id for _, body in reader.read(bytes(stale + fresh))] == [2]
    assert reader.stale == 1


def test_a_frame_that_claims_four_gigabytes_is_refused_before_there_is_room_for_it() -> None:
    with pytest.raises(ProtocolError, match="claims 4294967295 bytes"):
        list(FrameReader(FROM_PROCESS, 1).read(struct.pack("<IIB", 2**32 - 1, 1, wire.ANSWER)))


@given(garbage=st.binary(min_size=9, max_size=200))
def test_garbage_is_no_frame(garbage: bytes) -> None:
    reader = FrameReader(FROM_PROCESS, 1)
    try:
        found = list(reader.read(garbage))
    except ProtocolError:
        return
    assert not found or reader.stale == 0


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (99, b"\x90"),  # no such kind
        (wire.ANSWER, b"\xc1"),  # not MessagePack
        (wire.RESULTS, b"\x01"),  # not a list
        (wire.ANSWER, b"\x91" * 5_000 + b"\x90"),  # nested without end
    ],
)
def test_a_body_that_is_not_what_it_should_be_is_refused(kind: int, body: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader(FROM_PROCESS, 1).read(struct.pack("<IIB", len(body), 1, kind) + body))


def test_what_is_too_large_for_a_frame_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="do not fit into a frame"):
        wire.frame(wire.STATUS, "x" * (wire.MAX_FRAME + 1), 1)
