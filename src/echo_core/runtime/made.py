"""Ids of what plugins make from messages that may come again with the same id."""

from collections.abc import Sequence
from typing import Any, Final

from echo_core.message import (
    REPLAYED,
    BaseMessage,
    encode_data,
    id_from,
    is_repeatable,
    new_id,
    new_ids,
    with_time,
)

_REMEMBERED: Final = 4_096
"""Messages of which it is known what was made from them: more than a plugin has in hand."""


class Made:
    """What one plugin makes: the same from the same message has the same id, however often it is made.

    So what is handled again after a crash or a failure is known again by whoever has seen it, down to the
    last sink. It holds for what comes of a source that keeps its state, whose ids are repeatable, and for
    dead letters that are replayed, twice where who does it is killed; all else has new ids. Equal data made
    of one message in one attempt is counted, so that each has its own.
    """

    def __init__(self, plugin: str) -> None:
        self._plugin = plugin.encode()
        self.counts: dict[str, dict[str, int]] = {}
        """By the message in hand: how often each id was made. Mostly empty: ask before `end`."""

    def id(self, origin: BaseMessage | None, topic: str, data: Any) -> str:
        """The id of a message that is made from `origin`, or from none."""
        if origin is None:
            return new_id()
        if is_repeatable(origin.id):
            return self._repeatable(origin.id, origin.id, topic.encode(), data)
        if REPLAYED in origin.trace_context:
            return self._repeatable(origin.id, with_time(origin), topic.encode(), data)
        return new_id()

    def ids(self, origins: Sequence[BaseMessage | None], topic: str, data: Sequence[Any]) -> list[str]:
        """`id` for each, `data[i]` made from `origins[i]`; the first tells for all whether they repeat."""
        first = origins[0] if origins else None
        if first is None or not (is_repeatable(first.id) or REPLAYED in first.trace_context):
            return new_ids(len(data))
        return [self.id(origin, topic, item) for origin, item in zip(origins, data, strict=True)]

    def _repeatable(self, origin: str, base: str, topic: bytes, data: Any) -> str:
        content = encode_data(data)
        if content is None:
            return new_id()
        made = id_from(base, self._plugin, topic, content)
        counts = self.counts.get(origin)
        if counts is None:
            if len(self.counts) >= _REMEMBERED:
                del self.counts[next(iter(self.counts))]
            counts = self.counts[origin] = {}
        count = counts[made] = counts.get(made, 0) + 1
        return made if count == 1 else id_from(made, count.to_bytes(8, "little"))

    def end(self, *message_ids: str) -> None:
        """An attempt at these has ended: what is made of them in another is counted anew."""
        for message_id in message_ids:
            self.counts.pop(message_id, None)
