"""Log records: correlated with plugin, message and trace; none from the telemetry libraries themselves."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from common_telemetry import TelemetryConfig, TelemetryContext
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver
from telemetry.conftest import Start
from telemetry.pipeline import Message

PLUGIN = {"plugin.name": "sink", "plugin.version": "1.0.0", "plugin.status": "running"}


@pytest.fixture(autouse=True)
def unchanged_loggers() -> Iterator[None]:
    """Whatever a test does, closing its telemetry leaves the standard loggers as they were."""
    names = ("echo.plugin", "echo.plugin.sink", "a.library")

    def state() -> list[tuple[int, list[str]]]:
        loggers = [logging.getLogger(name) for name in names]
        return [(logger.level, ours([*logger.handlers, *logger.filters])) for logger in loggers]

    def ours(parts: list[object]) -> list[str]:
        return [repr(part) for part in parts if type(part).__module__.startswith("common_telemetry")]

    before = state()
    yield
    assert state() == before


@pytest.fixture
def memory(memory: InMemoryTelemetry) -> Iterator[InMemoryTelemetry]:
    yield memory
    memory.close()


def test_a_record_in_a_message_is_correlated(start: Start, protocol: str, receiver: OtlpReceiver) -> None:
    telemetry = start(protocol)
    plugin = telemetry.for_plugin("sink", "1.0.0", "running")
    with plugin.messages.process("orders.raw", Message("m1")):
        plugin.logger().info("stored %d rows", 3, extra={"rows": 3, "db.name": "orders"})
    plugin.logger().warning("idle")
    assert telemetry.shutdown()

    inside, outside = receiver.logs()
    (span,) = receiver.spans()
    assert (inside.body, inside.severity, inside.severity_number) == ("stored 3 rows", "INFO", 9)
    expected = {**PLUGIN, "message.topic": "orders.raw", "message.id": "m1", "rows": 3, "db.name": "orders"}
    assert expected.items() <= inside.attributes.items()
    assert (inside.trace_id, inside.span_id) == (span.trace_id, span.span_id)
    assert (inside.scope, inside.scope_version) == ("echo.plugin.sink", "1.0.0")
    assert (outside.severity, outside.trace_id) == ("WARN", "")
    assert PLUGIN.items() <= outside.attributes.items()
    assert "message.id" not in outside.attributes


def test_structlog_records_are_correlated_too(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    log = structlog.wrap_logger(
        plugin.logger(),
        processors=[structlog.stdlib.render_to_log_kwargs],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    with plugin.messages.process("orders.raw", Message("m1")) as scope:
        log.bind(order=17).error("not stored")
    (record,) = memory.logs()
    assert (record.body, record.severity) == ("not stored", "ERROR")
    assert record.attributes["order"] == 17
    assert record.attributes["message.id"] == "m1"
    assert record.trace_id == scope.trace_id_hex


def test_a_logged_exception_has_the_exception_attributes(memory: InMemoryTelemetry) -> None:
    logger = memory.for_plugin("sink").logger()
    try:
        raise ValueError("no such order")
    except ValueError:
        logger.exception("not stored")
    (record,) = memory.logs()
    assert record.attributes["exception.type"] == "ValueError"
    assert record.attributes["exception.message"] == "no such order"
    assert "Traceback" in record.attributes["exception.stacktrace"]


def test_every_handler_sees_the_plugin_the_message_and_the_trace(
    memory: InMemoryTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.messages.process("orders.raw", Message("m1")) as scope:
        plugin.logger().warning("look")
    (record,) = caplog.records
    fields = vars(record)
    assert (fields["plugin.name"], fields["message.id"], fields["trace_id"]) == (
        "sink",
        "m1",
        scope.trace_id_hex,
    )


def test_a_field_of_a_standard_name_is_kept_beside_the_standard_one(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").logger().info("look", extra={"plugin.name": "mine"})
    (record,) = memory.logs()
    assert record.attributes["plugin.name"] == "sink"
    assert record.attributes["user.plugin.name"] == "mine"


def test_records_below_the_level_stay_here(memory: InMemoryTelemetry) -> None:
    logger = memory.for_plugin("sink").logger()
    logger.debug("a detail")
    logger.info("a fact")
    assert [record.body for record in memory.logs()] == ["a fact"]


def test_telemetry_libraries_are_never_exported(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    plugin.logger()
    for name in ("opentelemetry.sdk.trace", "common_telemetry", "urllib3.connectionpool"):
        memory.context.capture_logs(name)
        logging.getLogger(name).warning("about telemetry")
    assert memory.logs() == []


def test_other_loggers_are_exported_on_request(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    memory.context.capture_logs("a.library")
    with plugin.messages.process("orders.raw", Message("m1")):
        logging.getLogger("a.library.part").info("connected")
    (record,) = memory.logs()
    assert (record.body, record.scope) == ("connected", "a.library.part")
    assert record.attributes["message.id"] == "m1"
    assert record.attributes["plugin.name"] == "sink"


def test_two_versions_of_a_plugin_log_as_themselves(memory: InMemoryTelemetry) -> None:
    old, new = memory.for_plugin("sink", "1.0.0"), memory.for_plugin("sink", "2.0.0")
    new.logger()
    with old.messages.process("orders.raw", Message("m1")):
        old.logger().info("old")
    with new.messages.process("orders.raw", Message("m2")):
        new.logger().info("new")
    assert [(record.body, record.attributes["plugin.version"]) for record in memory.logs()] == [
        ("old", "1.0.0"),
        ("new", "2.0.0"),
    ]


def test_a_record_nobody_can_format_hurts_nobody(
    memory: InMemoryTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        logging.getLogger("echo.plugin"), "propagate", False
    )  # pytest's own handler would raise
    memory.for_plugin("sink").logger().handle(
        logging.LogRecord("echo.plugin.sink", logging.INFO, __file__, 1, "%d", ("no number",), None)
    )
    assert memory.logs() == []
    assert memory.context.health().faults == {"log record": 1}


def test_values_the_protocol_does_not_know_are_sent_as_text(memory: InMemoryTelemetry) -> None:
    memory.for_plugin("sink").logger().info("look", extra={"set": {1}, "nested": {"a": [1, None]}})
    (record,) = memory.logs()
    assert record.attributes["set"] == "{1}"
    assert record.attributes["nested"] == {"a": (1, None)}


def test_without_a_log_exporter_warnings_of_plugins_still_reach_the_last_resort() -> None:
    telemetry = TelemetryContext.from_config(TelemetryConfig(), environ={})
    logger = telemetry.for_plugin("sink", "1.0.0").logger()
    # A handler of ours would count as one, and end the printing to stderr that Python does without any.
    assert logger.handlers == logging.getLogger("echo.plugin").handlers == []
    assert logger.name == "echo.plugin.sink"
    telemetry.shutdown()
