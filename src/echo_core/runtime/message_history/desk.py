"""What can be asked and done about messages in a running host: the functions behind the control API."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import TypeVar

import msgspec

from echo_core.errors import NotFound
from echo_core.runtime.message_history.documents import MessagePath, Newest
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.message_history.replay import Again, Replayed, what_to_send

T = TypeVar("T")


class ReplayMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a message is to be sent again."""

    plugin: str = ""
    """Only what this plugin had of it, and only to it; empty: the message itself, to all who subscribe."""
    dry_run: bool = False


class MessageDesk:
    """Knows what this host records, and who sends messages again."""

    def __init__(self, recorder: Recorder | None, send: Callable[[list[Again]], Awaitable[Replayed]]) -> None:
        self._recorder = recorder
        self._send = send

    async def path(self, asked: str, most: int) -> MessagePath:
        """The whole path of a message, up to this moment."""
        return await self._ask(lambda history: history.trace(asked, most=most))

    async def newest(self, count: int) -> Newest:
        """The newest messages that were made from no other."""
        return await self._ask(lambda history: history.newest(count))

    async def replay(self, asked: str, wish: ReplayMessage) -> Replayed:
        """Send a kept message again."""
        messages = await self._ask(lambda history: what_to_send(history, asked, wish.plugin))
        if wish.dry_run:
            return Replayed(dry_run=True, messages=tuple(each.told(sent=False) for each in messages))
        return await self._send(messages)

    async def _ask(self, question: Callable[[History], T]) -> T:
        recorder = self._recorder
        if recorder is None:
            raise NotFound(
                "this host records no messages", fix="set enabled = true under [history] of echo-core.toml"
            )

        def ask() -> T:
            recorder.flush()
            with closing(History(recorder.path)) as history:
                return question(history)

        return await asyncio.to_thread(ask)
