"""The account of a plugin's messages: what is told of it at an export, alike with both engines."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from common_telemetry import Account, TelemetryConfig, TelemetryContext
from common_telemetry.config import Engine, Semconv
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver
from telemetry.conftest import Start

FULL = Account(
    consumed=20,
    returned=1,
    processed=9,
    filtered=4,
    dead_lettered=3,
    shed=2,
    published=11,
    in_hand=3,
    waiting=5,
)
PLUGIN = {"plugin.name": "sink", "plugin.version": "1.0.0"}
Told = dict[tuple[Any, ...], float]


def told(memory: InMemoryTelemetry) -> Told:
    return {
        (point.name, *(set(point.attributes.items()) - PLUGIN.items())): point.value
        for point in memory.metrics()
    }


def test_it_is_told_whole_with_units_and_scope(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").observe_account(lambda: FULL)
    points = memory.metrics()
    assert {point.unit for point in points} == {"{message}"}
    assert {(point.scope, point.scope_version) for point in points} == {("echo.plugin.sink", "1.0.0")}
    assert {point.name for point in points if not point.monotonic} == {
        "plugin.message.in_hand",
        "plugin.message.waiting",
    }
    assert all(PLUGIN.items() <= point.attributes.items() for point in points)
    found = {(p.name, p.attributes.get("echo.message.outcome")): p.value for p in points}
    assert found == {
        ("plugin.message.consumed", None): 20,
        ("messaging.client.consumed.messages", None): 20,
        ("plugin.message.returned", None): 1,
        ("plugin.message.ended", "processed"): 9,
        ("plugin.message.ended", "filtered"): 4,
        ("plugin.message.ended", "dead_lettered"): 3,
        ("plugin.message.ended", "shed"): 2,
        ("plugin.message.published", None): 11,
        ("messaging.client.sent.messages", None): 11,
        ("plugin.message.in_hand", None): 3,
        ("plugin.message.waiting", None): 5,
    }


def test_the_twins_carry_what_the_messaging_conventions_ask_for(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").observe_account(lambda: FULL)
    (consumed,) = memory.metrics("messaging.client.consumed.messages")
    (sent,) = memory.metrics("messaging.client.sent.messages")
    system = {"messaging.system": "echo_core"}
    assert consumed.attributes == PLUGIN | system | {
        "messaging.operation.name": "process",
        "messaging.consumer.group.name": "sink",
    }
    assert sent.attributes == PLUGIN | system | {
        "messaging.operation.name": "publish",
        "messaging.client.id": "sink",
    }


@pytest.mark.parametrize(
    ("semconv", "left_out"),
    [
        ("echo", {"messaging.client.consumed.messages", "messaging.client.sent.messages"}),
        ("otel", {"plugin.message.consumed", "plugin.message.published"}),
    ],
)
def test_of_two_names_for_one_thing_one_can_be_left_out(
    engine: Engine, semconv: Semconv, left_out: set[str]
) -> None:
    def names(chosen: Semconv) -> set[str]:
        with InMemoryTelemetry(TelemetryConfig(engine=engine, semconv=chosen)) as memory:
            memory.for_plugin("sink").observe_account(lambda: FULL)
            return {point.name for point in memory.metrics()}

    assert names("both") - names(semconv) == left_out


def test_nothing_is_told_of_a_plugin_to_which_nothing_has_happened(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").observe_account(Account)
    assert memory.metrics() == []


def test_what_was_under_way_and_is_no_more_is_told_as_zero(memory: InMemoryTelemetry) -> None:
    accounts = [Account(consumed=1, in_hand=1, waiting=2), Account(consumed=1, processed=1)]
    memory.for_plugin("sink").observe_account(lambda: accounts.pop(0))
    assert told(memory)["plugin.message.waiting",] == 2
    assert (found := told(memory))["plugin.message.waiting",] == 0
    assert found["plugin.message.in_hand",] == 0


def test_it_is_read_once_for_all_that_is_told_of_it(memory: InMemoryTelemetry) -> None:
    reads: list[Account] = []

    def read() -> Account:
        number = len(reads) + 1
        reads.append(Account(consumed=number, processed=number, published=number))
        return reads[-1]

    memory.for_plugin("sink").observe_account(read)
    assert set(told(memory).values()) == {1}
    assert set(told(memory).values()) == {2}
    assert len(reads) == 2


def raising() -> Account:
    raise RuntimeError("as the test says")


@pytest.mark.parametrize("unread", [lambda: None, raising], ids=["none", "raises"])
def test_where_it_cannot_be_read_the_last_one_holds(
    memory: InMemoryTelemetry, unread: Callable[[], Account | None]
) -> None:
    reads: list[Callable[[], Account | None]] = [lambda: FULL, unread]
    memory.for_plugin("sink").observe_account(lambda: reads.pop(0)())
    assert told(memory) == told(memory)
    assert memory.context.health().faults == ({"measurement": 1} if unread is raising else {})


def test_delta_exports_add_up(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(environ={"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"})
    accounts = [Account(consumed=3, processed=3, waiting=7), Account(consumed=10, processed=10)]
    telemetry.for_plugin("sink", "1.0.0").observe_account(lambda: accounts.pop(0) if accounts else None)
    assert telemetry.flush(20)
    assert telemetry.flush(20)
    points = receiver.metrics("plugin.message.consumed")
    assert [(point.value, point.temporality) for point in points] == [(3, "delta"), (7, "delta")]
    levels = receiver.metrics("plugin.message.waiting")
    assert [(point.value, point.temporality) for point in levels] == [(7, "cumulative"), (0, "cumulative")]


def test_with_telemetry_off_it_is_never_read() -> None:
    telemetry = TelemetryContext.from_config(TelemetryConfig(engine="off"), environ={})
    telemetry.for_plugin("sink", "1.0.0").observe_account(raising)
    assert telemetry.shutdown()
    assert telemetry.health().faults == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_child_of_a_fork_tells_nothing_of_its_parents_messages(receiver: OtlpReceiver) -> None:
    telemetry = TelemetryContext.from_config(TelemetryConfig(), environ=receiver.environ())
    telemetry.for_plugin("sink", "1.0.0").observe_account(lambda: FULL)
    child = os.fork()
    if not child:
        os._exit(0 if telemetry.flush(20) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert receiver.metrics("plugin.message.consumed") == []
    assert telemetry.shutdown()
    (point,) = receiver.metrics("plugin.message.consumed")
    assert point.value == 20
