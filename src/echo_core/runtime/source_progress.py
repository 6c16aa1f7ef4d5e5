"""How far each source has come, from what is published and how it ends, to what is kept of it."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Final

from echo_core.errors import StateError
from echo_core.message import new_id
from echo_core.runtime.checkpoints import Checkpoint, CheckpointStore, Claim, checkpoint
from echo_core.runtime.source_state import EMPTY
from echo_core.settlement import Ending, FinishedPrefix

logger = logging.getLogger(__name__)

_PAUSE_S: Final = 0.02
"""Between two writes: what ends meanwhile goes into one."""
_RETRY_S: Final = 1.0


class Progress:
    """One source's. Its versions, one after another, share it, so there is one who writes."""

    def __init__(self, name: str, kept: Checkpoint | None, changed: Callable[["Progress"], None]) -> None:
        self.name: Final = name
        self.generation: Final = kept.generation if kept is not None else new_id()
        self.accepted = kept.state if kept is not None else EMPTY
        """The state of the newest publication that was accepted: where a new version, or process, begins."""
        self.finished = self.accepted
        """The newest state up to which everything has ended: where the next run begins."""
        self.version = ""
        self.trouble: StateError | None = None
        """Why nothing is known of it."""
        self.users = 0
        self.claim: Claim | None = None
        self.claiming = asyncio.Lock()
        self._begun = self.accepted
        self._changed = changed
        self._prefix = FinishedPrefix[bytes]()
        self._keys: dict[str, list[int]] = {}
        self._numbers = itertools.count()

    def begin(self, message_ids: Sequence[str], state: bytes | None) -> bytes:
        """Messages are about to be published, and `state` holds when all have ended; what they stand for.

        Without a state they are some of several, and the last of them brings it.
        """
        state = self._begun if state is None else state
        self._begun = state
        for message_id in message_ids:
            number = next(self._numbers)
            self._keys.setdefault(message_id, []).append(number)
            self._prefix.begin(number, state)
        return state

    def accept(self, state: bytes) -> None:
        """What began with this state has been accepted."""
        self.accepted = state

    def forget(self, message_ids: Sequence[str]) -> None:
        """These were not accepted, and will be published again, or never."""
        for message_id in message_ids:
            number = self._number_of(message_id)
            if number is not None:
                self._prefix.forget(number)

    def end(self, message_id: str, ending: Ending) -> None:
        """A message has ended, with all that was made of it."""
        if ending is Ending.UNFINISHED:
            return
        number = self._number_of(message_id)
        if number is not None:
            self._take(self._prefix.end(number))

    def exhausted(self, state: bytes) -> None:
        """Nothing more comes: this holds once all that was published has ended."""
        self.accepted = state
        number = next(self._numbers)
        self._prefix.begin(number, state)
        self._take(self._prefix.end(number))

    def _number_of(self, message_id: str) -> int | None:
        numbers = self._keys.get(message_id)
        if not numbers:
            return None
        number = numbers.pop(0)
        if not numbers:
            del self._keys[message_id]
        return number

    def _take(self, state: bytes | None) -> None:
        if state is not None and state != self.finished:
            self.finished = state
            self._changed(self)

    def checkpoint(self) -> Checkpoint:
        """What is to be kept."""
        return checkpoint(self.name, self.version, self.generation, self.finished)


class Progresses:
    """Of all sources of a host; without a store they last as long as the host."""

    def __init__(self, store: CheckpointStore | None) -> None:
        self._store = store
        self._open: dict[str, Progress] = {}
        self._unkept: dict[Progress, None] = {}
        self._writing: asyncio.Task[None] | None = None
        self._is_closing = asyncio.Event()
        self._is_failing = False

    async def open(self, name: str) -> Progress:
        """Where the source is; call `release` when it is not needed any more."""
        progress = self._open.get(name)
        if progress is None:
            kept, trouble = None, None
            if self._store is not None:
                try:
                    kept = await asyncio.to_thread(self._store.load, name)
                    if kept is not None:
                        kept.values()
                except StateError as error:  # a source that keeps no state need not care
                    kept, trouble = None, error
            progress = self._open.setdefault(name, Progress(name, kept, self._has_changed))
            progress.trouble = trouble
        progress.users += 1
        return progress

    async def claim(self, progress: Progress) -> None:
        """Before anything is published: nobody else writes this state, and its generation is kept.

        Raises `StateError`.
        """
        if self._store is None or progress.claim is not None:
            return
        async with progress.claiming:
            if progress.claim is None:
                claim = await asyncio.to_thread(self._store.claim, progress.name)
                try:
                    await asyncio.to_thread(self._store.save, [progress.checkpoint()])
                except StateError:
                    claim.close()
                    raise
                progress.claim = claim

    async def release(self, progress: Progress) -> None:
        """One user less; without any, what is left is written, and others may write it."""
        if progress.users == 1 and progress in self._unkept:
            await self._write()
        progress.users -= 1
        if progress.users:
            return
        self._open.pop(progress.name, None)
        if progress.claim is not None:
            progress.claim.close()
            progress.claim = None

    async def close(self) -> None:
        """Write what is left."""
        self._is_closing.set()
        if self._writing is not None:
            await self._writing
        await self._write()
        if self._store is not None:
            self._store.close()

    def _has_changed(self, progress: Progress) -> None:
        if self._store is None or not progress.users:
            return
        self._unkept[progress] = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_until_all_is_kept(), name="checkpoints")

    async def _write_until_all_is_kept(self) -> None:
        while self._unkept and not self._is_closing.is_set():
            pause = _RETRY_S if self._is_failing else _PAUSE_S
            try:
                async with asyncio.timeout(pause):
                    await self._is_closing.wait()
            except TimeoutError:
                await self._write()

    async def _write(self) -> None:
        """All that has changed, at once; what cannot be written stays for the next time."""
        changed, self._unkept = self._unkept, {}
        if not changed or self._store is None:
            return
        try:
            await asyncio.to_thread(self._store.save, [progress.checkpoint() for progress in changed])
        except StateError as error:
            self._unkept = changed | self._unkept
            if not self._is_failing:
                logger.error("where sources are is not kept for now: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False
