"""What the control API says and is told: objects of JSON, from which the OpenAPI document is made."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from echo_core.errors import EchoCoreError
from echo_core.runtime.dead_letters import Depth, ReplayWish, Selection
from echo_core.runtime.dead_letters.selection import chosen, selection
from echo_core.runtime.presence import SeenHost
from echo_core.runtime.states import NEXT, PluginState
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.status import TrialStatus
from echo_core.workspace import BuildType

if TYPE_CHECKING:
    from echo_core.runtime.slot import PluginEvent


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why something was not done: the same as the command line says."""

    code: str
    message: str
    where: str = ""
    why: str = ""
    fix: str = ""

    @classmethod
    def of(cls, error: EchoCoreError) -> "Problem":
        """The error, as a document."""
        return cls(code=error.code, message=error.what, where=error.where, why=error.why, fix=error.fix)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is no success."""

    error: Problem


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one plugin, whether it runs or not."""

    plugin: str
    count: int
    age_s: float
    """Of the oldest."""

    @classmethod
    def of(cls, depth: Depth) -> "Kept":
        """As it is now."""
        return cls(plugin=depth.plugin, count=depth.count, age_s=depth.age_s())


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The host at one moment."""

    version: str
    pid: int
    uptime_s: float
    ready: bool
    reasons: tuple[str, ...]
    """Why it is not ready; one sentence for each plugin that is not well, and one for the transport."""
    transport: str
    """Its URL, without user and password."""
    trouble: str
    """What keeps the transport from working at this moment; empty when nothing does."""
    plugins: tuple[PluginSnapshot, ...]
    """Those that run, failed, or ran before."""
    refused: dict[str, Problem]
    """Plugins that do not run as they are enabled, and why."""
    dead_letters: tuple[Kept, ...]
    upgrades: tuple[TrialStatus, ...] = ()
    """Those under way; what a shadow found stands in the plugin's own."""


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts that share the transport: this one first, where it is asked."""

    hosts: tuple[SeenHost, ...]
    warnings: tuple[str, ...] = ()
    """Plugins elsewhere that wait in vain for topics that are local here."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether all is well, and if not, why."""

    ok: bool
    reasons: tuple[str, ...] = ()
    dead_letters: tuple[Kept, ...] = ()
    """`/health/ready`: what waits for somebody to look at it. It does not make the host less ready."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A plugin went from one state to another."""

    plugin: str
    version: str
    time_ns: int
    previous: PluginState
    state: PluginState
    reason: str
    """What is wrong; empty for what is in the normal course of things."""
    cause: str = ""
    """What is wrong, or else what made it move."""

    @classmethod
    def of(cls, event: "PluginEvent") -> "Move":
        """The event, as a document."""
        return cls(
            plugin=event.name,
            version=event.version,
            time_ns=event.time_ns,
            previous=event.previous,
            state=event.state,
            reason=event.reason,
            cause=event.cause,
        )


class Moves(msgspec.Struct, frozen=True, kw_only=True):
    """The newest moves, the oldest first."""

    moves: tuple[Move, ...]


class States(msgspec.Struct, frozen=True, kw_only=True):
    """The states that there are, and the moves that are allowed."""

    states: dict[str, tuple[str, ...]]

    @classmethod
    def all(cls) -> "States":
        """The table."""
        return cls(states={state.value: tuple(sorted(s.value for s in NEXT[state])) for state in NEXT})


class Activate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which library to run."""

    build_type: BuildType = "development"
    version: str | None = None
    """None: the newest that is built."""


class Upgrade(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which library is to take the place of the one that runs, and how."""

    version: str | None = None
    """None: the newest that is built."""
    build_type: BuildType | None = None
    """None: that of the one that runs."""
    plan: Plan = Plan()


class Deal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a canary is to get."""

    percent: Annotated[float, msgspec.Meta(gt=0, le=100)]


class Upgraded(msgspec.Struct, frozen=True, kw_only=True):
    """How an upgrade stands."""

    name: str
    trial: TrialStatus | None
    """None when none is under way."""
    outcome: str
    """How the last trial ended; empty if there was none."""
    plugin: PluginSnapshot | None


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What a change led to."""

    name: str
    already: bool
    """It was so before; nothing was changed."""
    plugin: PluginSnapshot | None
    """The plugin after it; None if it runs no longer."""


class Which(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters are meant: those that fit everything that is said; saying nothing takes `all`."""

    ids: tuple[int, ...] = ()
    plugin: str | None = None
    error: str = ""
    """Text that the reason, or its kind, holds."""
    topic: str = ""
    """A topic pattern."""
    id: str = ""
    """The message's, its root's or its trace's."""
    since: str = ""
    """2026-11-25, 2026-11-25T18:00, or 2h for two hours ago."""
    until: str = ""
    all: bool = False

    def chosen(self) -> Selection:
        """For the store; raises `SelectionError`."""
        meant = selection(
            ids=self.ids,
            plugin=self.plugin,
            error=self.error,
            topic=self.topic,
            id=self.id,
            since=self.since,
            until=self.until,
        )
        return chosen(meant, everything=self.all)


class Discard(Which, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to throw away."""

    dry_run: bool = False


class AskReplay(Which, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to replay, and how."""

    first: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """At most so many, the oldest first."""
    rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """At most so many a second."""
    force: bool = False
    """What has come back too often, too."""
    dry_run: bool = False

    def wish(self) -> ReplayWish:
        """For the store; raises `SelectionError`."""
        return ReplayWish(selection=self.chosen(), first=self.first, rate=self.rate, force=self.force)


class Edit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a dead letter's replay is to send instead."""

    data: Any
    dry_run: bool = False


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One record."""

    number: int
    """Counts up by one."""
    time_ns: int
    level: str
    logger: str
    plugin: str
    """Empty where no plugin has to do with it."""
    version: str
    message_id: str
    """Of the message that was handled meanwhile, or empty."""
    text: str


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """Records, the oldest first."""

    lines: Sequence[LogLine]
