"""Finds the records that have to do with a message, in a file that others write."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from echo_core.errors import BadRequest, NotFound
from echo_core.runtime.dead_letters.selection import moment
from echo_core.runtime.message_history import ids
from echo_core.runtime.message_history.records import Accepted, Done, Kept, Needles
from echo_core.runtime.message_history.store import Block, HistoryStore

_CANDIDATES: Final = 10
"""Messages named where the beginning of an id fits several."""
_LEAST: Final = 6
"""Characters of an id that are enough to look for it."""
_BLOCKS: Final = 1_000
"""Blocks that are read to find what an id begins with: a quarter of a second's work."""
_MARGIN_NS: Final = 50_000_000
"""By so much the time in an id may differ from the message's own."""


class AmbiguousId(BadRequest):
    """The beginning of an id fits several messages."""

    code = "E-AMBIGUOUS"
    exit_code = 3


class Search:
    """Questions that are asked at one time. Reads each block once that may have to do with them."""

    def __init__(self, store: HistoryStore, most: int) -> None:
        """`most` messages of a path are looked for."""
        self._store = store
        self._most = most
        self._keys = store.keys()
        self._read: set[int] = set()
        self._looked_for: set[str] = set()
        self.blocks: list[Block] = []
        """All that were read."""
        self.accepted: dict[str, Accepted] = {}
        self.host_of: dict[str, int] = {}
        """Where a message was accepted."""
        self.done: dict[str, list[tuple[Done, int]]] = {}
        """By message: each with what must be added to its clock."""
        self.kept: dict[str, Kept] = {}
        self._children: dict[str, list[str]] = {}
        self._family: dict[str, list[str]] = {}
        """Messages by root."""
        self._traces: dict[str, list[str]] = {}

    def find(self, asked: str) -> tuple[str, str, list[str]]:
        """The whole id, what it is the id of, and the messages that are meant.

        Raises `NotFound`, and `AmbiguousId` for the beginning of several.
        """
        typed = asked.strip().lower()
        for candidate in dict.fromkeys([asked, typed, ids.dashed(typed)]):
            self.look_for([candidate])
            if candidate in self.accepted or candidate in self.done or candidate in self._family:
                return candidate, "message", [candidate]
            if candidate in self._traces:
                return candidate, "trace", list(self._traces[candidate])
        found = self._beginning_with(typed)
        if not found:
            raise self._not_found(asked)
        self.look_for([found])
        return found, "message", [found]

    def _beginning_with(self, text: str) -> str:
        """The one message whose id begins so; empty for none."""
        times = ids.times(text)
        if times is None or len(text.replace("-", "")) < _LEAST:
            return ""
        blocks = self._store.between(times[0] - _MARGIN_NS, times[1] + _MARGIN_NS)
        if len(blocks) > _BLOCKS:
            raise AmbiguousId(
                f"too many messages may have an id that begins with {text!r}", fix="give more of the id"
            )
        head = ids.dashed(text)
        fits = {
            record.message_id: record.topic
            for block in self._store.blocks(blocks)
            for record in block.records.accepted
            if record.message_id.startswith(head)
        }
        if len(fits) > 1:
            shown = [f"{each}  {topic}" for each, topic in sorted(fits.items())[:_CANDIDATES]]
            if len(fits) > _CANDIDATES:
                shown.append(f"and {len(fits) - _CANDIDATES:,} more")
            raise AmbiguousId(
                f"{len(fits):,} messages have an id that begins with {text!r}",
                why="\n".join(shown),
                fix="give more of the id",
            )
        return next(iter(fits), "")

    def _not_found(self, asked: str) -> NotFound:
        extent = self._store.extent()
        times = ids.times(asked)
        reach = "it is empty"
        if extent.records:
            reach = f"it reaches from {moment(extent.from_ns)} to {moment(extent.through_ns)}"
        if extent.pruned_ns:
            reach += (
                f"; {extent.pruned:,} records written up to {moment(extent.pruned_ns)} were pruned "
                "(retain_s, max_size_mb)"
            )
        if extent.dropped:
            reach += f"; {extent.dropped:,} records were dropped, because the disk was too slow or full"
        if self._store.damaged:
            reach += f"; {self._store.damaged:,} blocks of records are damaged"
        what = f"no message, root or trace {asked!r} is in the message history"
        fix = "echo-core dlq list --id ID looks among the dead letters, which are kept for good"
        if times is not None and extent.pruned_ns and times[0] <= extent.pruned_ns:
            what = f"message {asked} is in the message history no more"
            fix = f"raise retain_s or max_size_mb under [history] to keep more; {fix}"
        return NotFound(what, where=str(self._store.path), why=reach, fix=fix)

    def look_for(self, wanted: Iterable[str]) -> None:
        """Read all that may have to do with these ids."""
        new = {each for each in wanted if each} - self._looked_for
        if new:
            self._looked_for |= new
            self._load(self._store.find(Needles(new), self._keys))

    def _load(self, numbers: Sequence[int]) -> None:
        new = [number for number in numbers if number not in self._read]
        self._read.update(new)
        for block in self._store.blocks(new):
            self.blocks.append(block)
            self.kept.update(block.payloads)
            self._take(block)

    def _take(self, block: Block) -> None:
        for done in block.records.done:
            self.done.setdefault(done.message_id, []).append((done, block.clock_ns))
        for accepted in block.records.accepted:
            message_id = accepted.message_id
            if message_id in self.accepted:
                continue
            self.accepted[message_id] = accepted
            self.host_of[message_id] = block.host
            self._family.setdefault(accepted.root_id, []).append(message_id)
            self._traces.setdefault(accepted.trace_id, []).append(message_id)
            for parent in accepted.parents:
                self._children.setdefault(parent, []).append(message_id)

    def relatives(self, messages: Sequence[str]) -> tuple[list[str], int]:
        """All that these were made from, and all that was made from that; and how many are too many."""
        ancestors = self._closure(messages, self._parents_of)
        roots = [each for each in ancestors if not self._parents_of(each)]
        roots += [root for root in map(self.root_of, ancestors) if root not in roots]
        family = [each for root in roots for each in self._family.get(root, ())]
        found = self._closure([*roots, *ancestors, *family], self._made_from)
        ordered = sorted(found, key=self.when)
        return ordered[: self._most], max(0, len(ordered) - self._most)

    def _closure(self, start: Iterable[str], more: Callable[[str], Iterable[str]]) -> dict[str, None]:
        found: dict[str, None] = {}
        new = list(dict.fromkeys(start))
        while new and len(found) <= 2 * self._most:
            self.look_for(new)
            self.look_for(map(self.root_of, new))
            found.update(dict.fromkeys(new))
            new = list(dict.fromkeys(each for one in new for each in more(one) if each not in found))
        return found

    def _parents_of(self, message_id: str) -> tuple[str, ...]:
        known = self.accepted.get(message_id)
        return known.parents if known is not None else ()

    def root_of(self, message_id: str) -> str:
        """The first message of its lineage; itself when that is not recorded."""
        known = self.accepted.get(message_id)
        return known.root_id if known is not None else message_id

    def _made_from(self, message_id: str) -> list[str]:
        return self._children.get(message_id, [])

    def when(self, message_id: str) -> tuple[int, str]:
        """When it was made, as far as that is known; then its id, so that it can be sorted by."""
        known = self.accepted.get(message_id)
        if known is not None:
            return known.timestamp, message_id
        times = ids.times(message_id)
        return (times[0] if times else 0), message_id
