"""Which plugins a host has: those that are there, and the accounts of those that went."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TypeAlias

from echo_core.errors import NotFound
from echo_core.runtime.slot import PluginSlot
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.runtime.supervisor import Supervisor

_Version: TypeAlias = tuple[str, str, str]


class Roster:
    """Slots by the order in which they came; a supervisor for each that is more than a reason."""

    def __init__(self) -> None:
        self._supervisors: dict[PluginSlot, Supervisor | None] = {}
        self._past: dict[_Version, PluginSlot] = {}

    def add(self, slot: PluginSlot, supervisor: Supervisor | None = None) -> None:
        """Take it in; it goes on counting where the same version stopped."""
        past = self._past.pop(_version(slot), None)
        if past is not None:
            slot.statistics = past.statistics
        self._supervisors[slot] = supervisor

    def remove(self, slot: PluginSlot) -> None:
        """Let it go; its account is kept, with that of other builds of the same version."""
        del self._supervisors[slot]
        version, account = _version(slot), slot.statistics
        heirs = [other for other in (*self._supervisors, *self._past.values()) if _version(other) == version]
        if heirs:
            heirs[0].statistics.absorb(account)
        elif account.received or account.failed_attempts or account.published or account.shed:
            self._past[version] = slot

    def slots(self) -> Sequence[PluginSlot]:
        """Those that are there."""
        return list(self._supervisors)

    def supervisors(self) -> Sequence[Supervisor]:
        """Of those that are there; safe to iterate while some come and go."""
        return [supervisor for supervisor in self._supervisors.values() if supervisor is not None]

    def supervisor(self, slot: PluginSlot) -> Supervisor | None:
        """That of the slot."""
        return self._supervisors.get(slot)

    def named(self, name: str) -> PluginSlot | None:
        """The slot that goes by the name: the first of them, while a change is under way."""
        return next((slot for slot in self._supervisors if slot.name == name), None)

    def names(self) -> set[str]:
        """Of all that are there."""
        return {slot.name for slot in self._supervisors}

    def missing(self, name: str) -> NotFound:
        """The error for a name that is none of theirs."""
        near = get_close_matches(name, self.names(), n=1)
        fix = f"did you mean {near[0]!r}?" if near else "echo-core status shows what runs"
        return NotFound(f"no plugin {name!r} runs", fix=fix)

    def snapshot(self) -> tuple[PluginSnapshot, ...]:
        """The numbers of all, with those that went at the end."""
        return tuple(slot.snapshot() for slot in (*self._supervisors, *self._past.values()))


def _version(slot: PluginSlot) -> _Version:
    return slot.name, slot.version, slot.build_type
