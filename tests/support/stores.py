"""Stores of messages for tests: made, read to the end, looked into, and written to behind their back."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from echo_core.message import BaseMessage, decode
from echo_core.transports.sqlite.blocks import Block, bodies_of, read_head
from echo_core.transports.sqlite.transport import SqliteTransport, open_from_url


def store_at(path: Path, options: str = "") -> SqliteTransport:
    """A transport over that file, not yet open."""
    return open_from_url(f"sqlite://{path}?{options}")


def message(data: Any) -> BaseMessage:
    """A message of a test's."""
    return BaseMessage(source="test", data=data)


async def fill(path: Path, count: int, *, settled: int = 0, options: str = "") -> None:
    """Numbers from 0, on `a.even` and `a.odd`: for `all`, which has settled the first, and for `even`."""
    async with (
        store_at(path, options) as transport,
        transport.subscribe("all", ["a.#"], queue_limit=1_000_000) as everything,
        transport.subscribe("even", ["a.even"], queue_limit=1_000_000),
    ):
        topics = ("a.even", "a.odd")
        await asyncio.gather(
            *(
                transport.publish(topics[number % 2], message({"number": number, "text": "x" * 200}))
                for number in range(count)
            )
        )
        while settled:
            for delivery in await everything.receive(settled):
                await delivery.settle()
                settled -= 1


async def drain(path: Path, name: str, patterns: list[str]) -> list[int]:
    """The numbers that are due for a subscription, settled one and all."""
    numbers: list[int] = []
    async with store_at(path) as transport, transport.subscribe(name, patterns) as reader:
        waiting = asyncio.create_task(transport.wait_until_settled())
        while not waiting.done():
            receiving = asyncio.create_task(_receive(reader))
            await asyncio.wait([waiting, receiving], return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                receiving.cancel()
                break
            for delivery in receiving.result():
                numbers.append(delivery.message.data["number"])
                await delivery.settle()
        await waiting
    return numbers


async def _receive(reader: Any) -> Any:
    return await reader.receive(64)


def numbers_due(path: Path) -> set[int]:
    """The numbers that somebody has still to settle, as they lie in the file."""
    return {message.data["number"] for message in messages_due(path)}


def messages_due(path: Path) -> list[BaseMessage]:
    """What somebody has still to settle, as it lies in the file."""
    due: dict[int, BaseMessage] = {}
    for subscription, first, last, *block, bodies in rows(
        path,
        "SELECT subscription, first, last, b.seq, b.count, crc, head, bodies FROM deliveries d "
        "JOIN blocks b ON b.seq = (SELECT min(seq) FROM blocks WHERE seq >= d.first) "
        "WHERE first > 0",
    ):
        read = read_head(*block)
        assert read is not None
        found = bodies_of(read, bodies)
        for seq in Block.of(read).members_between(subscription, first, last):
            body = found[seq - read.first]
            assert body is not None
            due[seq] = decode(body)
    return [due[seq] for seq in sorted(due)]


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What the file says, past the transport."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def spoil(path: Path, seq: int) -> None:
    """Change a byte of that message, as a disk would."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        (last, *rest) = connection.execute(
            "SELECT seq, count, crc, head FROM blocks WHERE seq >= ? ORDER BY seq LIMIT 1", (seq,)
        ).fetchone()
        head = read_head(last, *rest)
        assert head is not None
        with connection.blobopen("blocks", "bodies", last) as bodies:
            bodies[sum(head.sizes[: seq - head.first])] ^= 1


def write(path: Path, *statements: str) -> None:
    """Change the file, past the transport."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
