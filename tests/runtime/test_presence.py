"""Hosts that share a transport hear of each other, and notice who is silent."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from echo_core.errors import TransportError
from echo_core.runtime import presence
from echo_core.runtime.presence import SILENT_S, HostCard, Neighbours, Presence, SeenHost
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot
from echo_core.testing import async_test
from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.urls import transport_for
from support.brokers import SCHEMES, Brokers

PATIENCE_S = 60.0


def said(host: str, uptime_s: float, *, leaving: bool = False) -> dict[str, bytes]:
    card = HostCard(id=host, machine=host, pid=1, uptime_s=uptime_s, leaving=leaving)
    return {host: msgspec.json.encode(card)}


def snapshot_of(*plugins: tuple[str, str]) -> HostSnapshot:
    snapshot_of.uptime_s += 0.001  # type: ignore[attr-defined]
    return HostSnapshot(
        uptime_s=snapshot_of.uptime_s,  # type: ignore[attr-defined]
        plugins=[
            PluginSnapshot(
                name=name,
                version="1.0",
                build_type="",
                plugin_type="",
                state=PluginState.RUNNING,
                reason="",
                subscriptions=(pattern,),
            )
            for name, pattern in plugins
        ],
    )


snapshot_of.uptime_s = 0.0  # type: ignore[attr-defined]


def test_a_host_that_says_nothing_new_is_silent_after_a_while_and_one_that_leaves_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    hosts = Neighbours(lambda: now)
    hosts.hear(said("a", 1) | said("b", 1) | {"c": b"{not json"})
    assert [(one.host.id, one.silent) for one in hosts.seen()] == [("a", False), ("b", False)]
    now = SILENT_S + 0.1
    hosts.hear(said("a", 2) | said("b", 1))
    assert [(one.host.id, one.silent) for one in hosts.seen()] == [("a", False), ("b", True)]
    assert "host b:1 has been silent" in caplog.text
    assert SILENT_S < 10
    hosts.hear(said("b", 3) | said("a", 2, leaving=True))
    assert [(one.host.id, one.silent) for one in hosts.seen()] == [("b", False)]
    assert "host b:1 is heard again" in caplog.text
    now += presence._REMEMBERED_S + 1
    hosts.hear({})
    assert hosts.seen() == []


@async_test
async def test_alone_on_a_transport_that_cannot_tell_it_knows_itself() -> None:
    alone = Presence(MemoryTransport(), lambda: snapshot_of(("a", "x")))
    await asyncio.wait_for(alone.watch(), PATIENCE_S)
    assert [one.host.plugins[0].name for one in alone.hosts()] == ["a"]


class Deaf(MemoryTransport):
    """Its client takes a cancellation for a lost connection."""

    capabilities = msgspec.structs.replace(MemoryTransport.capabilities, presence=True)

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.said: list[HostCard] = []

    async def announce(self, host: str, document: bytes) -> None:
        self.said.append(msgspec.json.decode(document, type=HostCard))

    async def announced(self) -> dict[str, bytes]:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise TransportError("the connection is lost") from None
        raise AssertionError


@async_test
async def test_good_bye_is_said_though_the_client_loses_the_cancellation() -> None:
    transport = Deaf()
    watching = asyncio.create_task(Presence(transport, snapshot_of).watch())
    await transport.asked.wait()
    watching.cancel()
    await asyncio.wait_for(asyncio.wait([watching]), PATIENCE_S)
    assert [card.leaving for card in transport.said] == [False, True]


@pytest.fixture(params=["sqlite", *SCHEMES])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/shared.sqlite"
    brokers: Brokers = request.getfixturevalue("brokers")
    return brokers.url(request.param)


@async_test
async def test_hosts_on_one_transport_see_each_other_come_go_and_die(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "INTERVAL_S", 0.1)
    monkeypatch.setattr(presence, "SILENT_S", 3.0)
    async with transport_for(url) as one, transport_for(url) as two, transport_for(url) as three:
        stays = Presence(one, lambda: snapshot_of(("first", "raw")), local=("step.#",))
        leaves = Presence(two, lambda: snapshot_of(("second", "step.one")))
        dies = Presence(three, lambda: snapshot_of(("third", "raw")))
        tasks = [asyncio.create_task(each.watch()) for each in (stays, leaves, dies)]

        def others() -> dict[str, SeenHost]:
            return {seen.host.plugins[0].name: seen for seen in stays.hosts()[1:]}

        await until(lambda: set(others()) == {"second", "third"})
        (warning,) = stays.unheard()
        assert "second on host" in warning
        assert "step.one" in warning
        tasks[1].cancel()
        await until(lambda: set(others()) == {"third"})
        await silence(three, tasks[2])
        await until(lambda: others()["third"].silent)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def silence(transport: Transport, task: asyncio.Task[None]) -> None:
    """As if the process had been killed: nothing more is said, not even good-bye."""

    async def nothing(host: str, document: bytes) -> None:
        pass

    transport.announce = nothing  # type: ignore[method-assign]
    task.cancel()


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)
