"""Signals, and how a host is shown while it runs."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from echo_core.cli.drive import Event, Stopper, drive
from echo_core.cli.progress import ABORTING, RUNNING, STOPPING, PlainProgress
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot


class Move(NamedTuple):
    name: str
    version: str
    state: PluginState
    reason: str


class StandIn:
    """A host that sends itself signals, and ends when told as often as `ends_after`."""

    def __init__(self, signals: list[signal.Signals], ends_after: str) -> None:
        self._signals = signals
        self._ends_after = ends_after
        self._ended = asyncio.Event()
        self._listeners: list[Callable[[Event], None]] = []
        self.calls: list[str] = []

    async def run(self, *, until_idle: bool = False) -> HostSnapshot:
        self.calls.append(f"run until_idle={until_idle}")
        for listener in self._listeners:
            listener(Move("a", "1.0", PluginState.RUNNING, ""))
        for number in self._signals:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0)
        if self._signals:
            await self._ended.wait()
        return HostSnapshot(uptime_s=7.0)

    def snapshot(self) -> HostSnapshot:
        return HostSnapshot(uptime_s=1.0)

    def events(self, callback: Callable[[Event], None]) -> None:
        self._listeners.append(callback)

    def request_stop(self) -> None:
        self._called("stop")

    def abort(self) -> None:
        self._called("abort")

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what == self._ends_after:
            self._ended.set()


class Notes(PlainProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, snapshot: HostSnapshot) -> None:
        pass

    def say(self, hint: str) -> None:
        self.lines.append(hint)


def driven(*signals: signal.Signals, ends_after: str = "stop") -> tuple[StandIn, Notes, HostSnapshot, bool]:
    async def scenario() -> tuple[StandIn, Notes, HostSnapshot, bool]:
        host, notes = StandIn(list(signals), ends_after), Notes()
        final, aborted = await drive(host, notes, until_idle=True)
        return host, notes, final, aborted

    return asyncio.run(scenario())


def test_a_run_without_signals_gives_the_final_numbers() -> None:
    host, notes, final, aborted = driven()
    assert host.calls == ["run until_idle=True"]
    assert (final.uptime_s, aborted) == (7.0, False)
    assert notes.lines == [RUNNING, "a 1.0 running"]


def test_the_first_signal_stops_in_good_order_and_says_what_the_next_would_do() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        host, notes, _, aborted = driven(number)
        assert host.calls[1:] == ["stop"]
        assert not aborted
        assert notes.lines[-1] == STOPPING


def test_the_second_signal_stops_at_once_and_a_third_changes_nothing() -> None:
    host, notes, _, aborted = driven(signal.SIGTERM, signal.SIGINT, signal.SIGINT, ends_after="abort")
    assert host.calls[1:] == ["stop", "abort"]
    assert aborted
    assert notes.lines[-1] == ABORTING


def test_the_signals_are_given_back_after_the_run() -> None:
    before = signal.getsignal(signal.SIGTERM)
    driven(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_that_a_plugin_takes_is_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> StandIn:
        host = StandIn([], "stop")
        stopper = Stopper(host, Notes())
        with stopper.installed():
            stopper.look()
            assert caplog.records == []
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            stopper.look()
            assert "SIGTERM is the host's" in caplog.text
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
        return host

    assert asyncio.run(scenario()).calls == ["stop"]
