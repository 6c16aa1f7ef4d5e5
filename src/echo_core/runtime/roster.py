"""Which plugins a host has: those that are there, and the accounts of those that went."""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TypeAlias

from common_telemetry import Account
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
        self._counted: dict[str, tuple[PluginSlot, ...]] = {}
        """Those whose numbers are the account of a name, each number once."""
        self._observed: set[tuple[str, str]] = set()
        self._is_moving_numbers = False

    def add(self, slot: PluginSlot, supervisor: Supervisor | None = None) -> None:
        """Take it in; it goes on counting where the same version stopped, in telemetry too."""
        with self._numbers_move():
            past = self._past.pop(_version(slot), None)
            if past is not None:
                slot.statistics = past.statistics
                self._leave_out(past)
            self._supervisors[slot] = supervisor
            self._counted[slot.name] = (*self._counted.get(slot.name, ()), slot)
        which = slot.name, slot.version
        if supervisor is not None and which not in self._observed:
            self._observed.add(which)
            slot.telemetry.observe_account(functools.partial(self.account, *which))

    def remove(self, slot: PluginSlot) -> None:
        """Let it go; its account is kept, with that of other builds of the same version."""
        with self._numbers_move():
            del self._supervisors[slot]
            version, numbers = _version(slot), slot.statistics
            others = (*self._supervisors, *self._past.values())
            heirs = [other for other in others if _version(other) == version]
            if heirs:
                heirs[0].statistics.absorb(numbers)
                self._leave_out(slot)
            elif numbers.taken or numbers.published or numbers.shed:
                self._past[version] = slot
            else:
                self._leave_out(slot)

    def _leave_out(self, slot: PluginSlot) -> None:
        self._counted[slot.name] = tuple(other for other in self._counted[slot.name] if other is not slot)

    @contextmanager
    def _numbers_move(self) -> Iterator[None]:
        # Not a lock: who shuts telemetry down in a signal handler may have interrupted these very lines.
        self._is_moving_numbers = True
        try:
            yield
        finally:
            self._is_moving_numbers = False

    def account(self, name: str, version: str) -> Account | None:
        """What became of the messages of this version; None while its numbers move. From any thread."""
        slots = self._counted.get(name, ())
        accounts = [slot.account() for slot in slots]
        mine = [account for slot, account in zip(slots, accounts, strict=True) if slot.version == version]
        # A version without a queue of its own is fed from that of the other one.
        guests = sum(
            account.in_hand
            for slot, account in zip(slots, accounts, strict=True)
            if slot.subscription is None and slot.version != version
        )
        if self._is_moving_numbers or slots is not self._counted.get(name, ()):
            return None
        total = Account(*map(sum, zip(*mine, strict=True)))
        return total._replace(waiting=max(0, total.waiting - guests))

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
