"""How far a partition has been handled, in the words of a commit: an offset, and a note beside it.

Kafka keeps one number for a consumer group and a partition: everything before that offset is settled.
Deliveries are settled in any order, though, and Kafka counts no attempts. So each commit carries a note, in
the metadata that the protocol has for it, of what is open after that offset and how often each was tried.
Whoever is given the partition next skips what was settled, and goes on counting.
"""

from typing import Final

_LONGEST: Final = 4_000
"""Characters of a note; Kafka takes offset.metadata.max.bytes, 4096 unless configured."""
_VERSION: Final = "echo1"


class Progress:
    """One partition: what was delivered of it, and what of that is open.

    The note is `echo1;<next>;<from>+<count>x<attempts>;…`: numbers relative to the committed offset, and a
    run for offsets in a row that were tried equally often. What lies before `next` and in no run is settled.
    Where there is no room for all runs, `next` comes before the first that is left out.
    """

    __slots__ = ("_open", "is_dirty", "next")

    def __init__(self, committed: int, note: str = "") -> None:
        self.next = committed
        """The offset after the last one that was delivered."""
        self._open: dict[int, int] = {}
        self.is_dirty = False
        """Whether something changed since the last `commit`."""
        version, *parts = note.split(";")
        if version == _VERSION and parts:
            self._read(committed, parts)

    def _read(self, committed: int, parts: list[str]) -> None:
        for run in parts[1:]:
            first, _, rest = run.partition("+")
            count, _, attempts = rest.partition("x")
            start = committed + int(first)
            self._open.update(dict.fromkeys(range(start, start + int(count)), int(attempts)))
        self.next = committed + int(parts[0])

    @property
    def committed(self) -> int:
        """The offset before which everything is settled."""
        return min(self._open, default=self.next)

    @property
    def open(self) -> int:
        """How many were delivered and are not settled."""
        return len(self._open)

    def deliver(self, offset: int) -> int | None:
        """Count an attempt at `offset`, and return which it is; None when it is settled already.

        What is passed over (Kafka has offsets without a message) is settled with it.
        """
        if offset >= self.next:
            self.next = offset + 1
            attempts = 1
        elif offset in self._open:
            attempts = self._open[offset] + 1
        else:
            return None
        self._open[offset] = attempts
        self.is_dirty = True
        return attempts

    def take_back(self, offset: int) -> None:
        """It was delivered, and nobody has looked at it: that was no attempt."""
        if self._open.get(offset, 0) > 0:
            self._open[offset] -= 1
            self.is_dirty = True

    def settle(self, offset: int) -> None:
        """It has ended. Again, or for what was never delivered, it changes nothing."""
        if self._open.pop(offset, None) is not None:
            self.is_dirty = True

    def commit(self) -> tuple[int, str]:
        """What to commit: the offset and the note."""
        self.is_dirty = False
        if not self._open:
            return self.next, ""
        runs: list[tuple[int, int, int]] = []
        for offset in sorted(self._open):
            attempts = self._open[offset]
            if runs and runs[-1][0] + runs[-1][1] == offset and runs[-1][2] == attempts:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1, attempts)
            else:
                runs.append((offset, 1, attempts))
        return runs[0][0], self._note(runs)

    def _note(self, runs: list[tuple[int, int, int]]) -> str:
        committed, told, following = runs[0][0], "", self.next
        for start, count, attempts in runs:
            run = f";{start - committed}+{count}x{attempts}"
            if len(told) + len(run) > _LONGEST:
                following = start
                break
            told += run
        return f"{_VERSION};{following - committed}{told}"
