"""The `PluginContext` of a source: it keeps a state, and waits while its messages fill a queue."""

import asyncio
from collections.abc import Callable, Coroutine, MutableMapping, Sequence
from time import monotonic
from typing import Any, Final

from echo_core.errors import StoreError
from echo_core.message import BaseMessage, Receipt, new_id
from echo_core.runtime.context import AT_ONCE, HostContext, message_in_hand
from echo_core.runtime.settlement import Followed, Settlements
from echo_core.runtime.source_progress import Progress, Progresses
from echo_core.runtime.source_state import SourceState
from echo_core.transports.turn import Turn

_RETRY_S: Final = 0.5
"""How long to wait for a store that takes nothing for now, before it is tried again."""


class StatefulContext(HostContext):
    """What a source publishes while it uses its state has ids that follow from it."""

    def __init__(self, *args: Any, state: SourceState, **more: Any) -> None:
        super().__init__(*args, **more)
        self._state = state
        self._keeps_state = False

    @property
    def state(self) -> MutableMapping[str, Any]:
        """See `PluginContext.state`."""
        self._keeps_state = True
        return self._state

    def position(self) -> bytes | None:
        """See `HostContext.position`."""
        return self._state.snapshot() if self._keeps_state else None

    def restore(self, state: bytes) -> None:
        """See `HostContext.restore`."""
        self._state.restore(state)

    def _first_id(self, topic: str, data: Any) -> str:
        return self._state.new_id(topic, data) if self._keeps_state else new_id()

    async def publish_batch(
        self, topic: str, data: Sequence[Any], *, made_from: Sequence[BaseMessage] | None = None
    ) -> list[BaseMessage]:
        """See `PluginContext.publish_batch`."""
        if not self._keeps_state or made_from is not None or message_in_hand.get() is not None:
            return await super().publish_batch(topic, data, made_from=made_from)
        if topic not in self._allowed_topics:
            self._check(topic)
        lineages = self._lineages(data, None)
        ids = [self._state.new_id(topic, item) for item in data]
        return await self._send_batch(topic, ids, data, lineages, None)


class SourceContext(StatefulContext):
    """A source's door in the host: it waits while its messages fill a queue, and shares the loop with lanes.

    Only sources wait here. Nobody waits for a source, so this closes no ring of plugins that wait.
    """

    def __init__(
        self,
        *args: Any,
        turn: Turn,
        settlements: Settlements,
        followed: Followed,
        progress: Progress,
        progresses: Progresses,
        follow: Callable[[], None],
        **more: Any,
    ) -> None:
        """`follow` has the source's messages followed to their ends, once it is known that they must be."""
        state = SourceState(progress.name, progress.generation, progress.accepted)
        super().__init__(*args, state=state, **more)
        self._turn = turn
        self._settlements = settlements
        self._followed = followed
        self._progress = progress
        self._progresses = progresses
        self._follow = follow
        self._begins_at = progress.accepted
        self._is_followed = followed.is_told
        self._is_running = False
        self._is_part = False
        """Whether what is being published is some of several, of which more will follow."""

    @property
    def state(self) -> MutableMapping[str, Any]:
        """See `PluginContext.state`."""
        self.keep_state()
        return self._state

    def keep_state(self) -> None:
        """From now on positions are kept. Raises `StateError` where nothing is known of the last one."""
        if self._keeps_state:
            return
        if self._progress.trouble is not None:
            raise self._progress.trouble
        self._keeps_state = self._is_followed = True
        self._progress.version = self.plugin_version
        self._followed.progress = self._progress
        if self._is_running:
            self._follow()

    def run(self) -> None:
        """The source begins, where another version of it, or another process, has stopped."""
        self._is_running = True
        self._progress.version = self.plugin_version
        if self._progress.accepted != self._begins_at:
            self.restore(self._progress.accepted)
        if self._keeps_state:
            self._follow()

    def exhausted(self, state: bytes | None = None) -> None:
        """The source has nothing more to say; `state` is what its own process says of it."""
        if self._keeps_state:
            self._progress.exhausted(self._state.snapshot() if state is None else state)

    @property
    def generation(self) -> tuple[str, bytes]:
        """What the source's own process must know: what ids are made from, and where it is."""
        return self._progress.generation, self._progress.accepted

    async def close(self) -> None:
        """See `HostContext.close`."""
        await self._progresses.release(self._progress)

    def publish(self, topic: str, data: Any) -> Coroutine[Any, Any, BaseMessage]:
        """See `PluginContext.publish`."""
        if monotonic() < self._turn.ends and self.transport.congestion(self.plugin_name) is None:
            return HostContext.publish(self, topic, data)
        return self._publish_in_turn(topic, data)

    async def _publish_in_turn(self, topic: str, data: Any) -> BaseMessage:
        await self._wait_for_turn()
        return await super().publish(topic, data)

    async def _wait_for_turn(self) -> None:
        await self._turn.give()
        while (room := self.transport.congestion(self.plugin_name)) is not None:
            await room
            await self._turn.give()

    async def publish_batch(
        self, topic: str, data: Sequence[Any], *, made_from: Sequence[BaseMessage] | None = None
    ) -> list[BaseMessage]:
        """See `PluginContext.publish_batch`. In parts, because no more may begin than may be unsettled."""
        await self._wait_for_turn()
        if not self._is_followed:
            return await super().publish_batch(topic, data, made_from=made_from)
        limit, messages = min(self._followed.limit, AT_ONCE), list[BaseMessage]()
        for at in range(0, len(data), limit):
            origins = made_from and made_from[at : at + limit]
            self._is_part = at + limit < len(data)
            messages += await super().publish_batch(topic, data[at : at + limit], made_from=origins)
            await self._turn.give_if_over()
        return messages

    def _send(
        self, topic: str, message_id: str, data: Any, schema: str, receipts: tuple[Receipt, ...]
    ) -> Coroutine[Any, Any, BaseMessage]:
        if not self._is_followed:  # `super` costs as much as the call
            return HostContext._send(self, topic, message_id, data, schema, receipts)
        return self._send_followed(topic, message_id, data, schema, receipts)

    async def _send_followed(
        self, topic: str, message_id: str, data: Any, schema: str, receipts: tuple[Receipt, ...]
    ) -> BaseMessage:
        begun = [(receipts[0].message_id if receipts else message_id, message_id)]
        state = await self._begin(begun, self.position())
        message = None
        try:
            message = await HostContext._send(self, topic, message_id, data, schema, receipts)
        finally:
            self._departed(begun, [message], state)
        return message

    async def _send_batch(
        self,
        topic: str,
        ids: Sequence[str],
        data: Sequence[Any],
        lineages: Sequence[tuple[Receipt, ...]],
        made_from: Sequence[BaseMessage] | None,
    ) -> list[BaseMessage]:
        if not self._is_followed:
            return await super()._send_batch(topic, ids, data, lineages, made_from)
        begun = [
            (receipts[0].message_id if receipts else message_id, message_id)
            for message_id, receipts in zip(ids, lineages, strict=True)
        ]
        state = await self._begin(begun, None if self._is_part else self.position())
        messages: Sequence[BaseMessage | None] = [None] * len(ids)
        try:
            made = messages = await super()._send_batch(topic, ids, data, lineages, made_from)
        finally:
            self._departed(begun, messages, state)
        return made

    async def accept(self, topic: str, message: BaseMessage, state: bytes | None = None) -> None:
        """See `HostContext.accept`; `state` is what its process says that holds once this has ended."""
        await self._wait_for_turn()
        if not self._is_followed:
            await super().accept(topic, message)
            return
        begun = [(message.root_id, message.id)]
        state = await self._begin(begun, state)
        accepted = None
        try:
            await super().accept(topic, message)
            accepted = message
        finally:
            self._departed(begun, [accepted], state)

    async def _refused(self, error: StoreError, topic: str, messages: Sequence[BaseMessage]) -> None:
        """A store that takes nothing for now slows the source, and does not fail it."""
        while error.may_pass:
            messages = messages[error.accepted :]
            await asyncio.sleep(_RETRY_S)
            try:
                if len(messages) == 1:
                    await self._accept(topic, messages[0])
                else:
                    await self._accept_batch(topic, messages)
                return
            except StoreError as again:
                error = again
        raise error

    async def _begin(self, begun: Sequence[tuple[str, str]], state: bytes | None) -> bytes:
        """Messages, each by the ids of its root and its own, are about to be published; their state."""
        if self._keeps_state and self._progress.claim is None:
            await self._progresses.claim(self._progress)
        await self._followed.begin(len(begun))
        if self._keeps_state:
            state = self._progress.begin([message_id for _, message_id in begun], state)
        for root_id, _ in begun:
            self._settlements.depart(root_id)
        return state or b""

    def _departed(
        self, begun: Sequence[tuple[str, str]], messages: Sequence[BaseMessage | None], state: bytes
    ) -> None:
        """Publishing them has returned these, or raised (None)."""
        if self._keeps_state:
            if None in messages:
                self._progress.forget([message_id for _, message_id in begun])
            else:
                self._progress.accept(state)
        for (root_id, message_id), message in zip(begun, messages, strict=True):
            self._settlements.departed(root_id, message_id, self._followed, message)
