"""One thing that a plugin left behind."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_NAMED: Final = 8


@dataclass(frozen=True, slots=True)
class Leftover:
    """It should have been gone when `shutdown` returned."""

    kind: str
    """What it is: "task", "thread", "file", …"""
    name: str
    """Which one, and where it is, as far as that can be told."""
    outcome: str
    """What was done about it: "cancelled", "closed", "still runs", …"""

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.outcome})"


def told(found: Sequence[Leftover]) -> str:
    """All of it in a line, the first few by name; empty for nothing."""
    if not found:
        return ""
    named = "; ".join(map(str, found[:_NAMED]))
    rest = Counter(leftover.kind for leftover in found[_NAMED:])
    more = "".join(f"; {count} more of kind {kind}" for kind, count in rest.items())
    return f"it left behind: {named}{more}"
