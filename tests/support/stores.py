"""Stores of messages for tests: made, read to the end, looked into, and written to behind their back."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

from echo_core.message import BaseMessage
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


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What the file says, past the transport."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def write(path: Path, *statements: str) -> None:
    """Change the file, past the transport."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
