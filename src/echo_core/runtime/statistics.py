"""What the host counts of each plugin, and the snapshots that views and summaries are made from."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from common_telemetry import Account
from echo_core.runtime.states import BROKEN, LIVE, PluginState

_RECENT: Final = 1_024
"""Handling times kept for percentiles: the newest ones, whatever the rate."""


class Statistics:
    """Counters of one plugin. A delivery ends as one of the three outcomes, is shed, or is still in hand.

    Whoever reads them in another thread than the loop's does it by `account`.
    """

    __slots__ = (
        "dead_lettered",
        "failed_attempts",
        "failed_first",
        "filtered",
        "processed",
        "published",
        "recent",
        "refused",
        "returned",
        "shed",
        "taken",
    )

    def __init__(self) -> None:
        self.taken = 0
        """Deliveries that were begun; one that went back counts again when it is begun again."""
        self.returned = 0
        """Of those, the ones that went back to their queue."""
        self.processed = 0
        self.filtered = 0
        self.dead_lettered = 0
        self.failed_attempts = 0
        self.failed_first = 0
        """Messages whose first attempt failed; of a batch that fails as a whole, what fails alone, or one."""
        self.published = 0
        self.refused = 0
        """Publications outside the manifest's."""
        self.shed: dict[str, int] = {}
        self.recent: deque[float] = deque(maxlen=_RECENT)
        """How many seconds handling took lately, the oldest first."""

    @property
    def received(self) -> int:
        """Deliveries taken from the queue: those that have ended, and those in hand."""
        return self.taken - self.returned

    def account(self) -> Account:
        """The same for telemetry, of one moment: safe from any thread."""
        # One expression without a call in it, in which CPython goes on to no other thread.
        now = self.taken, self.returned, self.processed, self.filtered, self.dead_lettered, self.published
        taken, returned, processed, filtered, dead_lettered, published = now
        return Account(
            consumed=taken,
            returned=returned,
            processed=processed,
            filtered=filtered,
            dead_lettered=dead_lettered,
            shed=sum(self.shed.copy().values()),
            published=published,
            in_hand=taken - returned - processed - filtered - dead_lettered,
        )

    def absorb(self, other: "Statistics") -> None:
        """Count here too what was counted there."""
        self.taken += other.taken
        self.returned += other.returned
        self.processed += other.processed
        self.filtered += other.filtered
        self.dead_lettered += other.dead_lettered
        self.failed_attempts += other.failed_attempts
        self.failed_first += other.failed_first
        self.published += other.published
        self.refused += other.refused
        for reason, count in other.shed.items():
            self.shed[reason] = self.shed.get(reason, 0) + count

    def recent_times(self) -> list[float]:
        """How long handling took lately, in seconds, the oldest first."""
        return list(self.recent)

    def percentile_ms(self, share: float) -> float | None:
        """The handling time, in ms, that `share` of the recent messages did not exceed; None before any."""
        known = sorted(self.recent)
        if not known:
            return None
        return known[min(len(known) - 1, int(share * len(known)))] * 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSnapshot:
    """One plugin at one moment."""

    name: str
    version: str
    build_type: str
    plugin_type: str
    state: PluginState
    reason: str
    """Why it is DEGRADED, STALLED, CIRCUIT_OPEN or FAILED; empty otherwise."""
    subscriptions: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()
    digest: str = ""
    """Which build of the version; empty where there is no library."""
    received: int = 0
    """Deliveries taken from the queue: = processed + filtered + dead_lettered + in_hand."""
    processed: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    failed_attempts: int = 0
    failed_first: int = 0
    """Messages whose first attempt failed."""
    published: int = 0
    shed: Mapping[str, int] = field(default_factory=dict)
    """Given up before they were received, by reason; empty unless `delivery.when_full` asks for it."""
    queue: int = 0
    """Messages that wait."""
    in_hand: int = 0
    """Received and not yet ended."""
    p95_ms: float | None = None
    """95th percentile of the recent handling times."""

    @property
    def is_live(self) -> bool:
        """Whether it was initialised and not yet shut down."""
        return self.state in LIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSnapshot:
    """The host at one moment; two of them make a rate."""

    uptime_s: float
    plugins: Sequence[PluginSnapshot] = field(default_factory=tuple)

    @property
    def failed(self) -> bool:
        """Whether something was dead-lettered or a plugin failed: the run's exit code is then 1."""
        return any(
            plugin.dead_lettered or plugin.state in BROKEN or plugin.in_hand or plugin.queue
            for plugin in self.plugins
        )
