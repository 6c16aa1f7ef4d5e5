"""Messages in blocks and deliveries in ranges say the same as one row for each would."""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from echo_core.transports.sqlite import schema
from echo_core.transports.sqlite.blocks import (
    MOST_BYTES,
    MOST_MESSAGES,
    Block,
    Kind,
    bodies_of,
    cut,
    pack,
    read_head,
)
from echo_core.transports.sqlite.store import Store

SUBSCRIPTIONS = (1, 2, 3)
HOSTS = (1, 2)


@dataclass
class Owed:
    """A delivery of the model: one row for each."""

    host: int | None
    attempt: int = 0
    due_ns: int | None = None


Model = dict[tuple[int, int], Owed]
"""By subscription and seq."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(schema.connect(tmp_path / "m.sqlite", busy_s=1)) as connection:
        opened = Store(connection)
        opened.begin()
        for number in SUBSCRIPTIONS:
            assert opened.attach(f"reader {number}", ["#"], 0) == number
        for _ in HOSTS:
            opened.add_host(1, 0)
        opened.commit()
        yield opened


def publish(store: Store, model: Model, chance: random.Random) -> None:
    """Some messages, each for some of the subscriptions; some are held at once."""
    kinds = [
        Kind(f"topic {number}", tuple(chance.sample(SUBSCRIPTIONS, chance.randrange(4))))
        for number in range(3)
    ]
    count = chance.choice((1, 3, 40, 100))
    block, row = pack(
        store.last_seq() + 1,
        0,
        chance.choices(kinds[: chance.randrange(1, 4)], k=count),
        [chance.randbytes(chance.randrange(20)) for _ in range(count)],
    )
    store.add_blocks([(block, row)])
    values: list[int | None] = []
    for subscription in block.subscriptions():
        members, host = block.members(subscription), chance.choice((None, *HOSTS))
        values += (subscription, members[0], members[-1], len(members), host)
        model |= {(subscription, seq): Owed(host) for seq in members}
    store.add_deliveries(values)


def some_of(model: Model, subscription: int, chance: random.Random) -> list[int]:
    """Seqs that the subscription has not settled, and one that it may have."""
    owed = [seq for number, seq in model if number == subscription]
    start = chance.randrange(len(owed) + 1)
    near = owed[start : start + chance.choice((1, 5, 300))]
    some = near if chance.random() < 0.5 else chance.sample(near, len(near) // 2)
    return [*some, chance.randrange(1, max(owed, default=1) + 1)]


def change(store: Store, model: Model, chance: random.Random) -> None:
    """One of the things that are done to deliveries."""
    subscription, host = chance.choice(SUBSCRIPTIONS), chance.choice(HOSTS)
    seqs = some_of(model, subscription, chance)
    owed = [(subscription, seq) for seq in set(seqs) if (subscription, seq) in model]
    what = chance.choice(
        ("settle", "settle", "hand out", "delay", "give back", "claim", "claim", "die", "mature")
    )
    if what == "settle":
        store.settle(subscription, seqs)
        for each in owed:
            del model[each]
    elif what == "hand out":
        store.handed_out(subscription, seqs)
        for each in owed:
            model[each].attempt += 1
    elif what == "delay":
        for seq in seqs[:3]:
            found = model.get((subscription, seq))
            is_held = found is not None and found.host == host
            assert store.delay(subscription, seq, host, 1, 10) == is_held
            if found is not None and is_held:
                found.host, found.due_ns = None, 10
    elif what == "give back":
        store.give_back(subscription, host, seqs)
        for each in owed:
            if model[each].host == host:
                model[each].host = None
    elif what == "claim":
        claim(store, model, subscription, host, chance.choice((1, 7, 64, 256)))
    elif what == "die":
        held = [each for each in model.values() if each.host == host]
        assert store.give_all_back(host) == len(held)
        for found in held:
            found.host = None
    else:
        delayed = [each for each in model.values() if each.due_ns is not None]
        assert sum(count for _, count in store.mature(20)) == len(delayed)
        for found in delayed:
            found.due_ns = None


def claim(store: Store, model: Model, subscription: int, host: int, limit: int) -> None:
    free = sorted(
        seq
        for (number, seq), each in model.items()
        if number == subscription and each.host is None and each.due_ns is None
    )
    arrivals, spoilt, is_more = store.claim(subscription, host, limit)
    came = [seq for arrival in arrivals for seq in arrival.seqs]
    assert (came, spoilt) == (free[:limit], [])
    assert is_more or len(free) < limit
    for arrival in arrivals:
        for seq in arrival.seqs:
            assert model[subscription, seq].attempt == arrival.attempt
            model[subscription, seq].host = host


def as_it_lies(store: Store) -> Model:
    """Every range of the table, message by message."""
    found: Model = {}
    rows = store._execute(
        "SELECT subscription, first, last, d.count, host, attempt, due_ns, b.seq, b.count, crc, head "
        "FROM deliveries d JOIN blocks b ON b.seq = (SELECT min(seq) FROM blocks WHERE seq >= d.first) "
        "WHERE first > 0"
    ).fetchall()
    for subscription, first, last, count, host, attempt, due_ns, *block in rows:
        head = read_head(*block)
        assert head is not None
        members = Block.of(head).members_between(subscription, first, last)
        assert (members[0], members[-1], len(members)) == (first, last, count)
        for seq in members:
            assert (subscription, seq) not in found
            found[subscription, seq] = Owed(host, attempt, due_ns)
    return found


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_done_the_ranges_say_what_one_row_for_each_message_would(store: Store, seed: int) -> None:
    chance, model = random.Random(seed), Model()
    for _ in range(40):
        store.begin()
        before = {key: Owed(each.host, each.attempt, each.due_ns) for key, each in model.items()}
        for _ in range(chance.randrange(1, 4)):
            chance.choices((publish, change), (1, 4))[0](store, model, chance)
        if chance.random() < 0.1:
            store.rollback()
            model = before
        else:
            store.commit()
        assert as_it_lies(store) == model
    for number in SUBSCRIPTIONS:
        owed = [each for (subscription, _), each in model.items() if subscription == number]
        assert store.count_delayed(number) == sum(each.due_ns is not None for each in owed)
        assert store.count_held(number, 1) == sum(each.host == 1 for each in owed)
        assert store.count_due(number) == sum(each.host is None and each.due_ns is None for each in owed)


def test_blocks_go_when_nothing_of_them_is_owed_and_seqs_are_never_given_again(store: Store) -> None:
    chance, model = random.Random(1), Model()
    store.begin()
    for _ in range(200):
        publish(store, model, chance)
    last = store.last_seq()
    kept = min(seq for _, seq in model)
    for number in SUBSCRIPTIONS:
        if seqs := [seq for subscription, seq in model if subscription == number and seq != kept]:
            store.settle(number, seqs)
    for _ in range(5):
        store.sweep(1)
    ((left,),) = store._execute("SELECT max(seq) FROM blocks")
    assert len(store._execute("SELECT seq FROM blocks").fetchall()) == 1
    assert kept <= left < last == store.last_seq()
    store.commit()


@pytest.mark.parametrize("seed", range(5))
def test_what_is_not_settled_keeps_no_more_than_a_block_each(store: Store, seed: int) -> None:
    chance, longest = random.Random(seed), 2 * MOST_BYTES
    kinds = [Kind(f"topic {number}", (1,)) for number in range(3)]
    sizes: dict[int, int] = {}
    store.begin()
    for _ in range(40):
        most, count = chance.choice(((20, 300), (1_000, 300), (MOST_BYTES // 2, 20), (longest, 5)))
        bodies = [bytes(chance.randint(1, most)) for _ in range(count)]
        for start, end in cut(bodies):
            first = store.last_seq() + 1
            block, row = pack(first, 0, chance.choices(kinds, k=end - start), bodies[start:end])
            store.add_blocks([(block, row)])
            store.add_deliveries([1, block.first, block.last, end - start, None])
            sizes |= {first + at: len(body) for at, body in enumerate(bodies[start:end])}
    unsettled = set(chance.sample(sorted(sizes), 20))
    store.settle(1, [seq for seq in sizes if seq not in unsettled])
    for _ in range(1 + len(sizes) // 1_024):
        store.sweep(1)
    left, head_bytes, body_bytes = store._execute(
        "SELECT count(*), sum(length(head)), sum(length(bodies)) FROM blocks"
    ).fetchone()
    store.commit()
    assert 0 < left <= len(unsettled)
    assert head_bytes < left * (MOST_MESSAGES * 10 + 1_000)
    assert body_bytes <= sum(max(MOST_BYTES, sizes[seq]) for seq in unsettled)


def test_pages_that_get_free_are_not_written_once_more(store: Store, tmp_path: Path) -> None:
    kinds, bodies = [Kind("a", ())] * 64, [b"x" * 1_000] * 64
    store.begin()
    store.add_blocks([pack(1 + 64 * number, 0, kinds, bodies) for number in range(10)])
    store.commit()
    with contextlib.closing(schema.connect(tmp_path / "m.sqlite", busy_s=1)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.begin()
    store.sweep(1)
    store.commit()
    assert store.last_seq() == 640
    assert (tmp_path / "m.sqlite-wal").stat().st_size < 100_000  # of the 640,000 bytes that got free


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [
        ([], []),
        ([10] * MOST_MESSAGES, [MOST_MESSAGES]),
        ([10] * (MOST_MESSAGES + 1), [MOST_MESSAGES, MOST_MESSAGES + 1]),
        ([MOST_BYTES + 1, 1], [1, 2]),
        ([1, MOST_BYTES, 1], [1, 2, 3]),
        ([MOST_BYTES // 2] * 5, [2, 4, 5]),
    ],
)
def test_a_block_has_so_many_messages_and_bytes_at_most(sizes: Sequence[int], ends: Sequence[int]) -> None:
    pieces = list(cut([b"x" * size for size in sizes]))
    assert [end for _, end in pieces] == ends
    assert [start for start, _ in pieces] == [0, *ends][: len(ends)]


def test_a_block_is_read_back_message_by_message() -> None:
    kinds = [Kind("a", (1, 2)), Kind("b", (2,)), Kind("c", ())]
    block, row = pack(11, 0, [kinds[0], kinds[1], kinds[0], kinds[2]], [b"one", b"", b"three", b"four"])
    head = read_head(row.seq, row.size, row.crc, row.head)
    assert head is not None
    for each in (block, Block.of(head)):
        assert (each.first, each.last, list(each.subscriptions())) == (11, 14, [1, 2])
        assert [list(each.members(number)) for number in (1, 2, 3)] == [[11, 13], [11, 12, 13], []]
        assert [each.kind(seq).topic for seq in range(11, 15)] == ["a", "b", "a", "c"]
    assert bodies_of(head, row.bodies) == [b"one", b"", b"three", b"four"]
    assert bodies_of(head, b"oneXhreefour") == [b"one", b"", None, b"four"]
    assert bodies_of(head, row.bodies[:4]) == [b"one", b"", None, None]
    assert bodies_of(head, "no bytes") == [None, b"", None, None]


def test_a_head_that_is_of_another_place_or_another_size_is_none() -> None:
    _, row = pack(11, 0, [Kind("a", (1,))] * 2, [b"one", b"two"])
    assert read_head(row.seq, row.size, row.crc, row.head) is not None
    for seq, size, crc, head in (
        (row.seq + 1, row.size, row.crc, row.head),
        (row.seq, row.size + 1, row.crc, row.head),
        (row.seq, row.size, row.crc ^ 1, row.head),
        (row.seq, row.size, row.crc, row.head[:-1]),
        (row.seq, row.size, row.crc, "no bytes"),
        (row.seq, row.size, 0, b""),
    ):
        assert read_head(seq, size, crc, head) is None
