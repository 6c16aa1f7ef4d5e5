"""The circuit breaker: by itself, and through the host's public door."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.testing import OtlpReceiver
from echo_core import BaseMessage, ProcessingStatus
from echo_core.runtime.circuit import TRIALS_OF_A_RUN_THAT_ENDS, Circuit
from echo_core.runtime.slot import PluginEvent, PluginSlot
from echo_core.runtime.states import PluginState
from echo_core.testing import async_test
from echo_core.testing.clock import ManualClock
from runtime.hosting import Handler, Numbers, World, manifest

OPEN = {"circuit_open_ms": 1_000, "circuit_open_max_ms": 60_000}
SOURCE = manifest("counting", says=("raw",), plugin_type="source")


def a_slot(**delivery: Any) -> tuple[PluginSlot, list[PluginEvent]]:
    """One that runs, and the moves it makes from now on."""
    moves: list[PluginEvent] = []
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine="off")).for_plugin("held", "1", "running")
    of = manifest("held", hears=("raw",), delivery=OPEN | delivery)
    slot = PluginSlot("held", "", of, telemetry, moves.append, state=PluginState.RUNNING)
    return slot, moves


def fail(circuit: Circuit, count: int) -> None:
    for number in range(count):
        circuit.failed(object(), f"message {number}", "OSError: gone")


@async_test
async def test_it_opens_after_so_many_failures_in_a_row_and_holds_who_waits() -> None:
    slot, moves = a_slot(circuit_failures=4)
    circuit = Circuit(slot, ManualClock())
    fail(circuit, 3)
    await circuit.wait("lane")  # returns at once
    fail(circuit, 1)
    waiting = asyncio.create_task(circuit.wait("lane"))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert slot.state is PluginState.CIRCUIT_OPEN
    assert [(move.state, move.reason) for move in moves] == [
        (PluginState.CIRCUIT_OPEN, "it fails whatever it is given, next trial in 1 s: OSError: gone")
    ]
    waiting.cancel()


def test_one_or_two_messages_that_cannot_be_handled_do_not_open_it() -> None:
    slot, _ = a_slot(circuit_failures=3)
    circuit, states = Circuit(slot, ManualClock()), []
    for message in ("one", "two", "three"):
        for _ in range(20):
            circuit.failed("lane", message, "ValueError: odd")
        states.append(slot.state)
    assert states == [PluginState.RUNNING, PluginState.RUNNING, PluginState.CIRCUIT_OPEN]


@pytest.mark.parametrize("how", ["processed", "filtered", "judged"])
def test_what_goes_well_in_between_begins_the_count_anew(how: str) -> None:
    slot, _ = a_slot(circuit_failures=4)
    circuit = Circuit(slot, ManualClock())
    for _ in range(10):
        fail(circuit, 3)
        if how == "judged":
            circuit.judged()
        else:
            setattr(slot.statistics, how, getattr(slot.statistics, how) + 1)
    assert slot.state is PluginState.RUNNING


@async_test
async def test_one_lane_tries_and_what_it_finds_decides_for_all() -> None:
    clock, (slot, _) = ManualClock(), a_slot(circuit_failures=3, circuit_open_ms=1_000)
    circuit = Circuit(slot, clock)
    fail(circuit, 3)
    one, other, third = object(), object(), object()
    lanes = [asyncio.create_task(circuit.wait(lane)) for lane in (one, other, third)]

    async def done_after(seconds: float) -> str:
        await clock.advance(seconds)
        circuit.look()
        await asyncio.sleep(0)
        return "".join(name for name, lane in zip("abc", lanes, strict=True) if lane.done())

    assert await done_after(0.9) == ""
    assert await done_after(0.2) == "a"
    assert await done_after(50) == "a"  # nobody else while it tries
    circuit.failed(other, "m", "in flight when it opened: not the trial")
    circuit.failed(one, "m", "OSError: still gone")
    assert "next trial in 2 s: OSError: still gone" in slot.reason
    assert await done_after(1.9) == "a"
    assert await done_after(0.2) == "ab"
    slot.statistics.processed += 1
    assert await done_after(0) == "abc"
    assert slot.state is PluginState.RUNNING


@given(failures=st.integers(1, 40))
def test_the_wait_doubles_up_to_its_longest(failures: int) -> None:
    slot, _ = a_slot(circuit_failures=3, circuit_open_ms=100, circuit_open_max_ms=5_000)
    clock = ManualClock()
    circuit = Circuit(slot, clock)

    async def scenario() -> float:
        fail(circuit, 3)
        for _ in range(failures):
            waiting = asyncio.create_task(circuit.wait("lane"))
            await clock.advance(5)
            circuit.look()
            await waiting
            circuit.failed("lane", "m", "OSError")
        waiting, began, waited = asyncio.create_task(circuit.wait("lane")), clock.monotonic(), 0.0
        while not waiting.done():
            await clock.advance(0.05)
            waited = clock.monotonic() - began
            circuit.look()
            await asyncio.sleep(0)
        return waited

    assert asyncio.run(scenario()) == pytest.approx(min(5, 0.1 * 2**failures), abs=0.1)


@async_test
async def test_a_lane_that_is_gone_is_passed_over() -> None:
    clock, (slot, _) = ManualClock(), a_slot(circuit_failures=3)
    circuit = Circuit(slot, clock)
    fail(circuit, 3)
    gone, here = (asyncio.create_task(circuit.wait(name)) for name in ("gone", "here"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    await clock.advance(2)
    circuit.look()
    await here


def test_zero_means_never() -> None:
    slot, _ = a_slot(circuit_failures=0)
    fail(Circuit(slot, ManualClock()), 1_000)
    assert slot.state is PluginState.RUNNING


@async_test
async def test_a_run_that_must_end_holds_for_a_limited_number_of_trials() -> None:
    clock, (slot, _) = ManualClock(), a_slot(circuit_failures=3)
    circuit = Circuit(slot, clock, must_end=True)
    fail(circuit, 3)
    for _ in range(TRIALS_OF_A_RUN_THAT_ENDS):
        assert slot.state is PluginState.CIRCUIT_OPEN
        waiting = asyncio.create_task(circuit.wait("lane"))
        await clock.advance(100)
        circuit.look()
        await waiting
        circuit.failed("lane", "m", "OSError")
    fail(circuit, 100)
    assert slot.state is PluginState.RUNNING


@pytest.mark.parametrize("how", ["processed", "filtered", "judged"])
@async_test
async def test_a_run_that_must_end_holds_for_as_long_in_the_next_outage(how: str) -> None:
    clock, (slot, _) = ManualClock(), a_slot(circuit_failures=3)
    circuit = Circuit(slot, clock, must_end=True)
    for _ in range(3):
        held = 0
        fail(circuit, 3)
        while slot.state is PluginState.CIRCUIT_OPEN:
            waiting = asyncio.create_task(circuit.wait("lane"))
            await clock.advance(100)
            circuit.look()
            await waiting
            circuit.failed("lane", "m", "OSError")
            held += 1
        assert held == TRIALS_OF_A_RUN_THAT_ENDS
        fail(circuit, 100)
        assert slot.state is PluginState.RUNNING  # given up, until it is seen to work

        if how == "judged":
            circuit.judged()
        else:
            setattr(slot.statistics, how, getattr(slot.statistics, how) + 1)
            circuit.look()


@pytest.mark.parametrize("delivery", [{}, {"lanes": 3}, {"lanes": 3, "ordering_key": "data"}])
def test_an_outage_holds_the_queue(tmp_path: Path, delivery: dict[str, Any]) -> None:
    async def scenario() -> None:
        clock, is_down = ManualClock(), True

        def write(message: BaseMessage) -> None:
            if is_down:
                raise ConnectionError("the database is away")

        world, sink = World(tmp_path, clock=clock, health_interval_s=10_000), Handler(write)
        more = {"circuit_failures": 4, **OPEN, "max_attempts": 5, **delivery}
        world.add(Numbers(50), SOURCE)
        world.add(sink, manifest("sink", hears=("raw",), delivery=more))
        running = asyncio.create_task(world.run(until_idle=False))

        async def until(state: PluginState) -> None:
            while world.host.snapshot().plugins[1].state is not state:
                await clock.advance(0.01)
                await asyncio.sleep(0.001)

        await until(PluginState.CIRCUIT_OPEN)
        await clock.advance(0.1)
        tried = len(sink.seen)
        assert tried < 15
        await asyncio.sleep(0.2)
        assert len(sink.seen) == tried  # it holds
        is_down = False
        await clock.advance(10)
        await until(PluginState.RUNNING)
        while world.transport.unsettled():
            await clock.advance(0.01)
            await asyncio.sleep(0.001)
        world.host.request_stop()
        final = (await running)["sink"]
        # In one lane the first two messages have used up their attempts before three have failed.
        lost = 0 if "lanes" in delivery else 2
        assert (final.processed, final.dead_lettered) == (50 - lost, lost)

    asyncio.run(scenario())


def test_a_lane_without_a_message_does_not_take_the_trial_from_one_that_has_some(tmp_path: Path) -> None:
    tried: list[str] = []

    async def write(message: BaseMessage) -> None:
        tried.append(message.data["key"])
        if message.data["key"] == "few":  # it is what opens the circuit, and nothing comes after it
            while tried.count("many") < 3:
                await asyncio.sleep(0.001)
            raise ConnectionError("away")
        if tried.count("many") <= 3:
            while tried.count("many") == 3 and world.host.snapshot().plugins[1].dead_lettered < 3:
                await asyncio.sleep(0.001)
            raise ConnectionError("away")

    world = World(tmp_path)
    more = {"circuit_failures": 3, "circuit_open_ms": 1, "max_attempts": 1, "lanes": 2, "queue_limit": 4}
    world.add(Numbers([{"key": "few"}, *[{"key": "many"}] * 20]), SOURCE)
    world.add(Handler(write), manifest("sink", hears=("raw",), delivery=more | {"ordering_key": "data.key"}))
    final = asyncio.run(world.run())["sink"]
    assert (final.processed, final.dead_lettered) == (17, 4)


def test_a_run_until_idle_ends_though_a_plugin_fails_whatever_it_is_given(tmp_path: Path) -> None:
    def broken(message: BaseMessage) -> ProcessingStatus:
        raise KeyError("text")

    world, more = World(tmp_path), {"circuit_failures": 4, "circuit_open_ms": 1, "circuit_open_max_ms": 1}
    world.add(Numbers(20), SOURCE)
    world.add(Handler(broken), manifest("broken", hears=("raw",), delivery=more))
    final = asyncio.run(world.run())["broken"]
    assert final.dead_lettered == 20
    assert PluginState.CIRCUIT_OPEN in {event.state for event in world.events}


def test_an_open_circuit_is_counted_and_logged_with_its_reason(tmp_path: Path) -> None:
    def broken(message: BaseMessage) -> ProcessingStatus:
        raise ConnectionError("the database is away")

    with OtlpReceiver() as receiver:
        world = World(tmp_path, otel=receiver.environ())
        more = {"circuit_failures": 4, "circuit_open_ms": 1, "circuit_open_max_ms": 1}
        world.add(Numbers(20), SOURCE)
        world.add(Handler(broken), manifest("broken", hears=("raw",), delivery=more))
        asyncio.run(world.run())
        assert world.telemetry.shutdown()
        counted = {
            (point.attributes.get("plugin.name"), point.attributes.get("plugin.status"))
            for point in receiver.metrics()
            if point.name == "plugin.lifecycle.events" and point.attributes["event"] == "state_change"
        }
        logged = [
            record.attributes.get("reason", "")
            for record in receiver.logs()
            if record.attributes.get("plugin.status") == "circuit_open"
        ]
    assert ("broken", "circuit_open") in counted
    assert any("ConnectionError: the database is away" in str(reason) for reason in logged)
