"""A recorder and what it wrote, for tests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from echo_core.message import BaseMessage
from echo_core.runtime.message_history.documents import Step, Visit
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import HistorySettings
from echo_core.transports.base import Delivery


class Handed(Delivery, msgspec.Struct, eq=False):
    """A delivery of which nothing is left."""

    topic: str
    message: BaseMessage
    attempt: int

    async def settle(self) -> None:
        return

    async def retry(self, delay: float = 0.0) -> None:
        return


@contextmanager
def recording(
    path: Path, *, stays: Sequence[str] = ("#",), queue_limit: int = 1_000, **settings: Any
) -> Iterator[Recorder]:
    """Records until the end of the block, and has then written."""
    recorder = Recorder(
        path, HistorySettings(**settings), stays=stays, interval_s=0.001, queue_limit=queue_limit
    )
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.close()


def asking(path: Path, ask: Callable[[History], Any]) -> Any:
    """What the history answers."""
    history = History(path)
    try:
        return ask(history)
    finally:
        history.close()


def accept(recorder: Recorder, message: BaseMessage, topic: str = "t.a") -> BaseMessage:
    """As if its source had published it."""
    recorder.of(message.source, "1").accepted(topic, message, message.root_id, message.parent_ids)
    return message


def visit(step: Step, plugin: str) -> Visit:
    """What the plugin did with the message."""
    return next(each for each in step.visits if each.plugin == plugin)
