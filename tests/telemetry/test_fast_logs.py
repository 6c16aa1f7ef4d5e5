"""Whatever is logged, the fast engine sends what the SDK would send."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.trace import NonRecordingSpan

from telemetry.sdk import since_1_45
from telemetry.side_by_side import ENGINES, FastLogs, logs, normal_logs, quiet_sdk
from telemetry.test_fast_equality import attributes, contexts, errors, keys, texts

bodies = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), texts, st.binary(max_size=4)
    ),
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(keys, parts, max_size=3)),
    max_leaves=5,
)
times = st.one_of(st.none(), st.integers(0, 10**9))
records = st.fixed_dictionaries(
    {
        "timestamp": times,
        "observed_timestamp": times,
        "severity_number": st.one_of(st.none(), st.sampled_from(SeverityNumber)),
        "severity_text": st.one_of(st.none(), texts),
        "body": bodies,
        "attributes": attributes,
        "event_name": st.one_of(st.none(), texts),
        "exception": st.one_of(st.none(), errors),
    }
)
limits = st.dictionaries(
    st.sampled_from(
        [
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        ]
    ),
    st.sampled_from(["0", "1", "2", "100", ""]),
    max_size=2,
)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with quiet_sdk():
        yield


@since_1_45
@pytest.mark.filterwarnings("ignore:Log record attributes were dropped")
@given(st.lists(st.tuples(records, contexts, st.booleans()), max_size=4), limits)
def test_any_log_record_gives_the_same_request(
    program: list[tuple[dict[str, Any], trace.SpanContext, bool]], environ: dict[str, str]
) -> None:
    found = []
    for engine in ENGINES:
        made = logs(engine, environ)
        logger = made.provider.get_logger("a.library", "1.2.3", "https://example.org/1", {"k": 1})
        for record, span, whole in program:
            where = trace.set_span_in_context(NonRecordingSpan(span), Context())
            if whole:
                logger.emit(LogRecord(context=where, **record))
            else:
                logger.emit(context=where, **record)
        found.append(normal_logs(made.request()))
    assert found[0] == found[1]


def test_what_is_logged_cannot_be_changed_afterwards() -> None:
    made = logs("fast")
    body = {"rows": [1]}
    attributes = {"list": [1]}
    made.provider.get_logger("a.library").emit(body=body, attributes=attributes)
    body["rows"].append(2)
    attributes["list"].append(2)
    (record,) = made.request().resource_logs[0].scope_logs[0].log_records
    assert len(record.body.kvlist_value.values[0].value.array_value.values) == 1
    assert len(record.attributes[0].value.array_value.values) == 1


class Hostile:
    """Raises when its text is asked for."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("odd", [Hostile(), "\ud800", 2**64, {"k": object()}, b"\xff"])
def test_nothing_that_is_logged_raises_or_takes_other_records_with_it(odd: Any) -> None:
    made = logs("fast")
    logger = made.provider.get_logger("a.library")
    logger.emit(body=odd, attributes={"odd": odd}, severity_text=odd, event_name=odd, timestamp=odd)
    logger.emit(body="ok", severity_number=odd, attributes=odd)
    logger.emit(body="ok")
    bodies = [
        record.body.string_value for record in made.request().resource_logs[0].scope_logs[0].log_records
    ]
    assert bodies[-1] == "ok"


class Watching(LogRecordProcessor):
    """A log record processor of an application's."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.seen.append(log_record.log_record.body)
        assert log_record.log_record.attributes is not None
        log_record.log_record.attributes["seen"] = True  # type: ignore[index]

    def shutdown(self) -> None:
        return None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def test_a_log_record_processor_added_later_sees_every_record_and_all_still_arrive(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = logs("fast")
    assert isinstance(made, FastLogs)
    before = made.provider.get_logger("made before")
    before.emit(body="one")
    watching = Watching()
    with caplog.at_level(logging.WARNING):
        made.provider.add_log_record_processor(watching)
    (said,) = caplog.records
    assert "Watching" in said.getMessage()
    before.emit(body="two", event_name="event", severity_number=SeverityNumber.WARN)
    made.provider.get_logger("made after", attributes={"k": 1}).emit(body="three")
    assert watching.seen == ["two", "three"]
    found = [
        (part.scope.name, record.body.string_value, record.event_name, record.severity_number)
        for part in made.request().resource_logs[0].scope_logs
        for record in part.log_records
    ]
    assert found == [
        ("made before", "one", "", 0),
        ("made before", "two", "event", 13),
        ("made after", "three", "", 0),
    ]
