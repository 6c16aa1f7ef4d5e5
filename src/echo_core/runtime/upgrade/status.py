"""What can be said of a trial at one moment."""

from typing import Any

import msgspec


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A message that the two versions answered otherwise."""

    message_id: str
    topic: str
    old: tuple[tuple[str, Any], ...]
    """Topic and data of each output."""
    new: tuple[tuple[str, Any], ...]
    new_failed: str = ""
    """Why the new version failed at it for good; empty if it did not."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What came of comparing so far."""

    same: int
    different: int
    not_compared: int
    """The new version could not keep up, or published for no message."""
    differences: tuple[Difference, ...]
    """The newest, at most a hundred."""


class TrialStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a trial has come."""

    name: str
    strategy: str
    old_version: str
    new_version: str
    percent: float
    """The part of the messages' keys that the new version gets; of copies, in a shadow."""
    old_ended: int
    """Messages since the trial began."""
    new_ended: int
    old_failed: int
    """Messages since then whose first attempt failed."""
    new_failed: int
    old_p95_ms: float | None = None
    """95th percentile of the recent handling times, the way to a process of its own included."""
    new_p95_ms: float | None = None
    seconds: float
    looks: int
    comparison: Comparison | None = None
