"""What waits to be sent, in both implementations: in Python, and in C where this is compiled."""

import gc
import struct
import sys
import threading
from collections import defaultdict, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.test_primitives import implementations, kind_of

IMPLEMENTATIONS = list(implementations("pile"))
BEYOND = 300_000
"""Bytes: more than lie in one piece."""


@pytest.fixture(params=IMPLEMENTATIONS, ids=kind_of)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


class Origin:
    def __init__(self, name: str) -> None:
        self.name = name


class Thing:
    """An object: what is made of it is known later."""

    def __init__(self, origin: Origin, written: bytes | None) -> None:
        self.origin = origin
        self.written = written


def written(thing: Thing) -> tuple[Origin, bytes] | None:
    return None if thing.written is None else (thing.origin, thing.written)


ORIGINS = [Origin(name) for name in "abc"]
origins = st.sampled_from(ORIGINS)
sizes = st.one_of(st.integers(0, 60), st.sampled_from([5_000, 100_000, BEYOND]))
add = st.tuples(st.just("add"), origins, st.one_of(st.none(), sizes))
write = st.tuples(st.just("write"), origins, sizes)
many = st.tuples(st.just("many"), origins, st.integers(0, 3_000))
take = st.tuples(st.just("take"), st.integers(0, 40), st.sampled_from([1, 60, 5_000, 1_000_000]))
clear = st.tuples(st.just("clear"))
programs = st.lists(
    st.sampled_from([add, add, write, write, write, many, take, take, clear]).flatmap(lambda one: one),
    max_size=30,
)


class Model:
    """The obvious way to do it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.items: deque[tuple[Origin, bytes | None]] = deque()

    def put(self, origin: Origin, content: bytes | None) -> None:
        if len(self.items) < self.limit:
            self.items.append((origin, content))

    def take(self, most: int, most_bytes: int) -> tuple[dict[Origin, bytes], int]:
        found: dict[Origin, bytes] = defaultdict(bytes)
        count = size = 0
        while self.items and count < most and size < most_bytes:
            origin, content = self.items.popleft()
            if content is not None:
                found[origin] += content
                size += len(content)
                count += 1
        return dict(found), count


@given(program=programs, limit=st.sampled_from([5, 100_000]))
def test_what_goes_in_comes_out_as_from_a_queue(program: list[tuple[Any, ...]], limit: int) -> None:
    for twin in IMPLEMENTATIONS:
        pile, model = twin.Pile(limit, 64), Model(limit)
        for number, (word, *arguments) in enumerate(program):
            if word == "add":
                origin, size = arguments
                content = None if size is None else bytes([number % 256]) * size
                pile.add(Thing(origin, content))
                model.put(origin, content)
            elif word == "write":
                origin, size = arguments
                pile.write(origin, bytes([number % 256]) * size)
                model.put(origin, bytes([number % 256]) * size)
            elif word == "many":
                origin, count = arguments
                for at in range(count):
                    pile.write(origin, at.to_bytes(4))
                    model.put(origin, at.to_bytes(4))
            elif word == "take":
                taken = pile.take(*arguments, written)
                found, count = model.take(*arguments)
                assert taken.count == count
                assert {of: sum(map(len, parts)) for of, parts in taken.content.items()} == {
                    of: len(all_) for of, all_ in found.items()
                }
                parts = [b"<", *(part for of in found for part in taken.content[of]), b">"]
                assert bytes(taken.joined(parts)) == b"<" + b"".join(found.values()) + b">"
            else:
                assert pile.clear() == len(model.items)
                model.items.clear()
            assert len(pile) == len(model.items)


def test_it_looks_at_each_step_and_counts_what_has_no_room(twin: Any) -> None:
    class Watched(twin.Pile):  # type: ignore[misc]
        def _look(self, waiting: int) -> None:
            looks.append(waiting)

        def _drop(self, count: int) -> None:
            drops.append(count)

    looks: list[int] = []
    drops: list[int] = []
    pile = Watched(25, 10)
    for at in range(30):
        if at % 2:
            pile.write(ORIGINS[0], b"x")
        else:
            assert pile.add(Thing(ORIGINS[0], b"y")) == (at < 25)
    assert (looks, drops, len(pile)) == ([10, 20], [1] * 5, 25)


def test_nothing_is_kept_of_what_was_taken_or_forgotten(twin: Any) -> None:
    origin = Origin("counted")
    gc.collect()
    before = sys.getrefcount(origin)
    pile = twin.Pile(10_000, 64)
    for _ in range(3_000):
        pile.write(origin, bytes(300))
        pile.add(Thing(origin, b"x"))
    for _ in range(4):
        assert pile.take(1_000, 1_000_000, written).count == 1_000
    assert sys.getrefcount(origin) > before
    pile.clear()
    assert sys.getrefcount(origin) == before
    pile.write(origin, b"left")
    del pile
    assert sys.getrefcount(origin) == before


def test_what_cannot_be_made_of_an_object_takes_no_other_with_it(twin: Any) -> None:
    def broken(thing: Thing) -> None:
        raise ValueError("no bytes")

    pile = twin.Pile(10, 5)
    pile.write(ORIGINS[0], b"before")
    pile.add(Thing(ORIGINS[0], b""))
    pile.write(ORIGINS[0], b"after")
    with pytest.raises(ValueError, match="no bytes"):
        pile.take(10, 1_000, broken)
    taken = pile.take(10, 1_000, written)
    assert bytes(taken.joined(taken.content[ORIGINS[0]])) == b"after"


def test_from_many_threads_everything_is_taken_once_or_counted(twin: Any) -> None:
    class Counted(twin.Pile):  # type: ignore[misc]
        dropped = 0

        def _drop(self, count: int) -> None:
            with counting:
                self.dropped += count

    counting, stop = threading.Lock(), threading.Event()
    pile = Counted(2_000, 64)
    found: list[bytes] = []

    def fill(number: int) -> None:
        for at in range(3_000):
            written = struct.pack("<II", number, at)
            if at % 7:
                pile.write(ORIGINS[number % 3], written)
            else:
                pile.add(Thing(ORIGINS[number % 3], written))

    def empty() -> None:
        while not stop.is_set() or len(pile):
            taken = pile.take(50, 1_000_000, written)
            found.extend(bytes(taken.joined(parts)) for parts in taken.content.values())

    taking = threading.Thread(target=empty)
    filling = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    taking.start()
    for thread in filling:
        thread.start()
    for thread in filling:
        thread.join()
    stop.set()
    taking.join()
    items = [one for block in found for one in struct.iter_unpack("<II", block)]
    assert len(set(items)) == len(items) == 12_000 - pile.dropped
