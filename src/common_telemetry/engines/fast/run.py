"""Measurements that wait to be taken in. Written twice: here, and in C (`run.pyx`), as `primitives` is."""

from collections import deque
from collections.abc import Sequence

NOT_MEASURED = -1.0
"""For a time in the queue."""


class Run:
    """Measurements of processed messages, in the order in which they were made. Any thread may add."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._noted: deque[_Note] = deque()

    def __len__(self) -> int:
        return len(self._noted)

    def note(
        self,
        elapsed_ns: int,
        waited_ms: float,
        message_id: str,
        trace_id: bytes | None,
        span_id: bytes,
        now_ns: int,
    ) -> bool:
        """Add one; whether `limit` or more wait now.

        `waited_ms` may be NOT_MEASURED; without a trace id it can be no exemplar.
        """
        noted = self._noted
        noted.append((elapsed_ns, waited_ms, message_id, trace_id, span_id, now_ns))
        return len(noted) >= self._limit

    def take(self) -> "Noted":
        """All that wait."""
        pop = self._noted.popleft
        return Noted([pop() for _ in range(len(self._noted))])


class Noted:
    """Measurements that were taken out of a run."""

    def __init__(self, notes: "list[_Note]") -> None:
        self._notes = notes

    def __len__(self) -> int:
        return len(self._notes)

    def durations(self, ns: float) -> Sequence[float]:
        """How long each took, in units of so many nanoseconds."""
        return [note[0] / ns for note in self._notes]

    def waits(self) -> tuple[Sequence[float], Sequence[int]]:
        """The times in the queue that were measured, in milliseconds, and of which measurement each is."""
        which = [at for at, note in enumerate(self._notes) if note[1] != NOT_MEASURED]
        return [self._notes[at][1] for at in which], which

    def has_samples(self) -> bool:
        """Whether any can be an exemplar."""
        return any(note[3] is not None for note in self._notes)

    def sample(self, at: int) -> tuple[int, bytes, bytes, str] | None:
        """When one was made, of which trace, span and message, if it can be an exemplar."""
        _, _, message_id, trace_id, span_id, now_ns = self._notes[at]
        return None if trace_id is None else (now_ns, trace_id, span_id, message_id)


_Note = tuple[int, float, str, bytes | None, bytes, int]
