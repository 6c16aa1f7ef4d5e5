"""The shape of traces, over a real OTLP receiver."""

import asyncio
import traceback
from typing import Any

import pytest
from opentelemetry import trace

from common_telemetry import Outgoing
from common_telemetry.errors import LONGEST
from common_telemetry.testing import InMemoryTelemetry, OtlpReceiver, ReceivedSpan
from telemetry.conftest import Start
from telemetry.pipeline import EXPECTED_TREE, ManualClock, Message, publish, run_pipeline

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def by_name(spans: list[ReceivedSpan]) -> dict[str, ReceivedSpan]:
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


def test_one_message_through_the_pipeline_is_one_trace_as_drawn(
    start: Start, protocol: str, receiver: OtlpReceiver
) -> None:
    telemetry = start(protocol)
    run_pipeline(telemetry)
    assert telemetry.flush()

    spans = by_name(receiver.spans())
    assert spans.keys() == EXPECTED_TREE.keys()
    assert len({span.trace_id for span in spans.values()}) == 1
    for name, (kind, parent, plugin, message_id) in EXPECTED_TREE.items():
        span = spans[name]
        assert span.kind == kind, name
        assert span.parent_span_id == (spans[parent].span_id if parent else ""), name
        assert span.attributes["plugin.name"] == plugin, name
        assert span.attributes["message.id"] == message_id, name
        assert span.start_ns <= span.end_ns, name


def test_a_process_span_links_to_its_publish_span(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start()
    run_pipeline(telemetry)
    assert telemetry.flush()

    for span in receiver.spans():
        if span.kind == "consumer":
            (link,) = span.links
            assert (link.trace_id, link.span_id) == (span.trace_id, span.parent_span_id)
            assert link.attributes == {"messaging.message.id": span.attributes["message.id"]}
        else:
            assert span.links == ()


def test_links_are_left_out_where_the_parent_says_it_already_if_so_configured(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(config={"links": "needed"})
    run_pipeline(telemetry)
    assert telemetry.flush()
    assert [span.links for span in receiver.spans()] == [()] * 10


def test_message_spans_carry_the_standard_attributes_and_the_twins(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start()
    run_pipeline(telemetry)
    assert telemetry.flush()

    for span in receiver.spans():
        verb, topic = span.name.split()
        _, _, plugin, message_id = EXPECTED_TREE[span.name]
        role = "messaging.client.id" if verb == "publish" else "messaging.consumer.group.name"
        expected = {
            "plugin.name": plugin,
            "plugin.version": "1.2.3",
            "plugin.status": "running",
            "message.topic": topic,
            "message.id": message_id,
            "echo.message.root_id": "m1",
            "messaging.system": "echo_core",
            "messaging.operation.name": verb,
            "messaging.operation.type": "send" if verb == "publish" else "process",
            "messaging.destination.name": topic,
            "messaging.message.id": message_id,
            "messaging.message.conversation_id": "m1",
            role: plugin,
        }
        assert expected.items() <= span.attributes.items()
        assert (span.scope, span.scope_version) == (f"echo.plugin.{plugin}", "1.2.3")


@pytest.mark.parametrize(
    ("semconv", "absent"),
    [
        ("echo", {"messaging.system", "messaging.message.id", "messaging.message.conversation_id"}),
        ("otel", {"echo.message.root_id"}),
    ],
)
def test_one_vocabulary_can_be_left_out(
    semconv: str, absent: set[str], start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start(config={"semconv": semconv})
    run_pipeline(telemetry)
    assert telemetry.flush()
    for span in receiver.spans():
        assert not absent & span.attributes.keys()
        assert {"plugin.name", "message.topic", "message.id"} <= span.attributes.keys()


def test_a_message_made_from_another_names_it_and_carries_its_own_publish_span(
    start: Start, receiver: OtlpReceiver
) -> None:
    telemetry = start()
    messages = run_pipeline(telemetry)
    assert telemetry.flush()

    assert messages["m2"].parent_ids == ("m1",)
    published = by_name(receiver.spans())["publish orders.valid"]
    assert published.attributes["echo.message.parent_ids"] == ("m1",)
    version, trace_id, span_id, flags = messages["m2"].trace_context["traceparent"].split("-")
    assert (version, trace_id, span_id) == ("00", published.trace_id, published.span_id)
    assert int(flags, 16) & 1


def test_a_plugins_own_spans_nest_under_the_message(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("validator", "2.0.0")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    with (
        plugin.messages.process("orders.raw", message) as scope,
        plugin.create_span("step", {"k": 1}),
        plugin.create_span("inner step") as inner,
    ):
        inner.set_attribute("more", True)

    spans = by_name(memory.spans())
    step, inner_step = spans["step"], spans["inner step"]
    assert step.kind == inner_step.kind == "internal"
    assert step.parent_span_id == spans["process orders.raw"].span_id
    assert inner_step.parent_span_id == step.span_id
    assert step.trace_id == inner_step.trace_id == scope.trace_id_hex
    assert step.attributes == {
        "k": 1,
        "plugin.name": "validator",
        "plugin.version": "2.0.0",
        "plugin.status": "running",
        "message.topic": "orders.raw",
        "message.id": "m1",
    }
    assert inner_step.attributes["more"] is True


def test_a_span_outside_a_message_has_no_message(memory: InMemoryTelemetry) -> None:
    with memory.for_plugin("validator").create_span("warm up"):
        pass
    (span,) = memory.spans()
    assert span.attributes == {
        "plugin.name": "validator",
        "plugin.version": "1.0.0",
        "plugin.status": "running",
    }


def test_an_attribute_of_a_standard_name_is_kept_beside_the_standard_one(memory: InMemoryTelemetry) -> None:
    with memory.for_plugin("validator").create_span(
        "step", {"plugin.name": "mine", "plugin.version": "1.0.0"}
    ):
        pass
    (span,) = memory.spans()
    assert span.attributes["plugin.name"] == "validator"
    assert span.attributes["user.plugin.name"] == "mine"
    assert "user.plugin.version" not in span.attributes  # the same value says nothing more
    assert memory.context.health().faults == {"reserved attribute": 1}


def test_a_status_set_later_is_on_everything_from_then_on(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("validator", status="starting")
    with plugin.create_span("before"):
        pass
    plugin.status = "running"
    with plugin.create_span("after"):
        pass
    spans = by_name(memory.spans())
    assert spans["before"].attributes["plugin.status"] == "starting"
    assert spans["after"].attributes["plugin.status"] == "running"


def test_an_exception_marks_the_attempt_as_failed(
    start: Start, protocol: str, receiver: OtlpReceiver
) -> None:
    telemetry = start(protocol)
    plugin = telemetry.for_plugin("validator", "1.0.0", "running")
    message = publish(plugin, "orders.raw", "m1")
    with pytest.raises(ValueError, match="no such order"), plugin.messages.process("orders.raw", message):
        raise ValueError("no such order")
    assert telemetry.flush()

    span = by_name(receiver.spans())["process orders.raw"]
    assert (span.status, span.status_description) == ("error", "ValueError: no such order")
    assert span.attributes["error.type"] == "ValueError"
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.message"] == "no such order"
    assert span.start_ns <= event.time_ns <= span.end_ns

    (point,) = receiver.metrics("plugin.message.processing_time_ms")
    assert point.attributes["error.type"] == "ValueError"
    (record,) = receiver.logs()
    assert (record.severity, record.event_name) == ("ERROR", "plugin.message.failed")
    assert (record.trace_id, record.span_id) == (span.trace_id, span.span_id)
    assert record.attributes["message.id"] == "m1"


def test_of_a_very_long_exception_the_beginning_is_told_and_both_ends_of_its_stack(
    memory: InMemoryTelemetry,
) -> None:
    plugin = memory.for_plugin("validator", "1.2.3", "running")
    message = publish(plugin, "orders.raw", "m1")
    text = "x" * 1_000_000
    with plugin.messages.process("orders.raw", message) as scope:
        try:
            raise ValueError(text + "the end")
        except ValueError as error:
            scope.fail(error)
    with pytest.raises(ValueError, match="x"), plugin.lifecycle("init"):
        raise ValueError(text)
    (failed,) = [span for span in memory.spans() if span.name == "process orders.raw"]
    for span in memory.spans():
        for event in span.events:
            told = event.attributes
            assert str(told["exception.message"]).startswith("xxx")
            assert str(told["exception.message"]).endswith("characters)")
            assert "Traceback" in str(told["exception.stacktrace"])
            assert all(len(str(value)) < LONGEST + 100 for value in told.values())
        assert len(span.status_description) < LONGEST + 100
    (event,) = failed.events
    assert str(event.attributes["exception.stacktrace"]).endswith("the end\n")
    records = [record for record in memory.logs() if "exception.message" in record.attributes]
    assert len(records) >= 2
    for record in records:
        assert len(str(record.body)) < LONGEST + 200
        assert all(len(str(value)) < LONGEST + 100 for value in record.attributes.values())


def test_a_failure_told_by_the_host_is_told_once_even_if_it_also_passes_through(
    memory: InMemoryTelemetry,
) -> None:
    plugin = memory.for_plugin("validator")
    error = KeyError("missing")

    def handle() -> None:
        with plugin.messages.process("orders.raw", Message("m1")) as scope:
            scope.fail(error)
            scope.outcome("retry")
            raise error

    with pytest.raises(KeyError):
        handle()
    (span,) = memory.spans()
    assert len(span.events) == 1
    assert span.attributes["echo.message.outcome"] == "retry"
    assert len(memory.logs()) == 1


@pytest.mark.parametrize(("given", "expected"), [(None, "_OTHER"), ("timeout", "timeout")])
def test_a_failure_without_an_exception_has_a_type_too(
    given: str | None, expected: str, memory: InMemoryTelemetry
) -> None:
    plugin = memory.for_plugin("validator")
    with plugin.messages.process("orders.raw", Message("m1")) as scope:
        scope.fail("took too long", given)
    (span,) = memory.spans()
    assert (span.status, span.status_description) == ("error", "took too long")
    assert span.attributes["error.type"] == expected
    assert span.events == ()


def test_five_subscribers_of_one_message_are_siblings(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start()
    message = publish(telemetry.for_plugin("source", "1.0.0"), "orders.raw", "m1")
    for number in range(5):
        with telemetry.for_plugin(f"sink_{number}", "1.0.0").messages.process("orders.raw", message):
            pass
    assert telemetry.flush()

    (published,) = receiver.spans("publish orders.raw")
    processed = receiver.spans("process orders.raw")
    assert len(processed) == 5
    assert {span.parent_span_id for span in processed} == {published.span_id}
    assert {span.attributes["message.id"] for span in processed} == {"m1"}
    assert {span.attributes["plugin.name"] for span in processed} == {f"sink_{number}" for number in range(5)}


def test_a_batch_from_several_traces_is_a_new_trace_linked_to_each(memory: InMemoryTelemetry) -> None:
    source, sink = memory.for_plugin("source"), memory.for_plugin("sink")
    messages = [publish(source, "orders.raw", f"m{number}") for number in range(3)]
    with sink.messages.batch("orders.raw", messages), sink.create_span("write"):
        pass

    (span,) = memory.spans("process orders.raw")
    published = memory.spans("publish orders.raw")
    assert span.parent_span_id == ""
    assert span.trace_id not in {one.trace_id for one in published}
    assert [(link.trace_id, link.span_id) for link in span.links] == [
        (one.trace_id, one.span_id) for one in published
    ]
    assert [link.attributes["messaging.message.id"] for link in span.links] == ["m0", "m1", "m2"]
    assert span.attributes["messaging.batch.message_count"] == 3
    assert "message.id" not in span.attributes
    (inner,) = memory.spans("write")
    assert inner.attributes["message.topic"] == "orders.raw"


def test_a_batch_from_one_trace_continues_it_from_the_last_message(memory: InMemoryTelemetry) -> None:
    source, sink = memory.for_plugin("source"), memory.for_plugin("sink")
    first = publish(source, "orders.raw", "m1")
    with source.messages.process("orders.raw", first):
        messages = [publish(source, "parts", f"p{number}", first) for number in range(3)]
    with sink.messages.batch("parts", messages):
        pass

    (span,) = memory.spans("process parts")
    published = memory.spans("publish parts")
    assert (span.trace_id, span.parent_span_id) == (published[-1].trace_id, published[-1].span_id)
    assert len(span.links) == 3
    assert span.attributes["echo.message.root_id"] == "m1"


def test_what_is_published_together_is_a_span_for_each_under_the_current_one(
    memory: InMemoryTelemetry,
) -> None:
    source, sink = memory.for_plugin("source"), memory.for_plugin("sink")
    origin = publish(source, "orders.raw", "m1")
    going = [Outgoing(f"p{number}", "m1", ("m1",), None if number else origin) for number in range(3)]
    with sink.messages.process("orders.raw", origin), sink.messages.publish_batch("parts", going) as scope:
        carriers = list(scope.carriers())

    (processed,) = memory.spans("process orders.raw")
    spans = memory.spans("publish parts")
    assert {(span.kind, span.trace_id, span.parent_span_id) for span in spans} == {
        ("producer", processed.trace_id, processed.span_id)
    }
    assert [span.attributes["message.id"] for span in spans] == ["p0", "p1", "p2"]
    assert {span.attributes["echo.message.root_id"] for span in spans} == {"m1"}
    assert [carrier["traceparent"].split("-")[1:3] for carrier in carriers] == [
        [span.trace_id, span.span_id] for span in spans
    ]


def test_in_a_batch_of_several_traces_what_is_made_from_one_message_goes_on_in_its_trace(
    memory: InMemoryTelemetry,
) -> None:
    source, sink = memory.for_plugin("source"), memory.for_plugin("sink")
    origins = [publish(source, "orders.raw", f"m{number}") for number in range(2)]
    going = [Outgoing(f"p{number}", one.id, (one.id,), one) for number, one in enumerate(origins)]
    going.append(Outgoing("sum", "m0", ("m0", "m1"), None))
    with sink.messages.batch("orders.raw", origins), sink.messages.publish_batch("parts", going) as scope:
        assert len(list(scope.carriers())) == 3

    (batch,) = memory.spans("process orders.raw")
    expected = [(span.trace_id, span.span_id) for span in (*memory.spans("publish orders.raw"), batch)]
    assert [(span.trace_id, span.parent_span_id) for span in memory.spans("publish parts")] == expected


def test_a_batch_that_the_transport_does_not_take_is_an_error_on_each_span(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("source")
    going = [Outgoing(f"p{number}", f"p{number}", (), None) for number in range(2)]
    with pytest.raises(ConnectionError), plugin.messages.publish_batch("parts", going):
        raise ConnectionError("gone")
    spans = memory.spans("publish parts")
    assert [(span.status, span.attributes["error.type"]) for span in spans] == [
        ("error", "ConnectionError")
    ] * 2
    assert len({span.trace_id for span in spans}) == 2


def test_the_stack_of_an_exception_is_formatted_once_for_a_whole_batch(
    memory: InMemoryTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    formatted: list[object] = []
    really = traceback.format_exception

    def counting(error: Any, *more: Any, **others: Any) -> list[str]:
        formatted.append(error)
        return really(error, *more, **others)

    monkeypatch.setattr(traceback, "format_exception", counting)
    plugin = memory.for_plugin("source")
    going = [Outgoing(f"p{number}", f"p{number}", (), None) for number in range(100)]
    with pytest.raises(ConnectionError), plugin.messages.publish_batch("parts", going):
        raise ConnectionError("gone")
    assert len(formatted) == 1
    events = [span.events for span in memory.spans("publish parts")]
    assert [[event.name for event in each] for each in events] == [["exception"]] * 100
    told = [dict(event.attributes) for (event,) in events]
    assert told == [told[0]] * 100
    assert told[0].keys() == {
        "exception.type",
        "exception.message",
        "exception.stacktrace",
        "exception.escaped",
    }


def test_what_is_made_from_an_unsampled_message_or_one_with_baggage_goes_on_as_it_came(
    memory: InMemoryTelemetry,
) -> None:
    sink = memory.for_plugin("sink")
    unsampled = Message("m1", trace_context={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    headers = {"tracestate": "vendor=1", "baggage": "user=anna;secret=no"}
    carrying = Message("m2", trace_context={"traceparent": f"00-{TRACE[::-1]}-{SPAN}-01", **headers})
    going = [Outgoing(one.id + "x", one.id, (one.id,), one) for one in (unsampled, carrying)]
    both = sink.messages.batch("raw", [unsampled, carrying])
    with both, sink.messages.publish_batch("parts", going) as scope:
        first, second = scope.carriers()
    assert first["traceparent"].startswith(f"00-{TRACE}-")
    assert int(first["traceparent"][-2:], 16) & 1 == 0
    assert {name: second[name] for name in headers} == headers
    (span,) = memory.spans("publish parts")
    assert span.attributes["message.id"] == "m2x"


def test_attempts_are_siblings_and_each_links_to_the_one_before(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    with plugin.messages.process("orders.raw", message) as first:
        first.fail("not yet")
    with plugin.messages.process("orders.raw", message, attempt=2, previous=first) as second:
        second.fail("not yet")
    with plugin.messages.process("orders.raw", message, attempt=3, previous=second):
        pass

    (published,) = memory.spans("publish orders.raw")
    attempts = memory.spans("process orders.raw")
    assert [span.attributes["echo.delivery.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.status for span in attempts] == ["error", "error", "unset"]
    assert {span.parent_span_id for span in attempts} == {published.span_id}
    assert [link.span_id for link in attempts[2].links] == [published.span_id, attempts[1].span_id]


def test_a_dead_letter_hangs_on_the_last_attempt(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    with plugin.messages.process("orders.raw", message) as failed:
        failed.fail("broken")
    with plugin.messages.dead_letter("orders.dead", message, "broken for good", failed) as letter:
        carrier = letter.carrier()

    (attempt,) = memory.spans("process orders.raw")
    (span,) = memory.spans("publish orders.dead")
    assert (span.kind, span.trace_id, span.parent_span_id) == ("producer", attempt.trace_id, attempt.span_id)
    assert span.attributes["echo.dlq.reason"] == "broken for good"
    assert span.attributes["echo.dlq.original_topic"] == "orders.raw"
    assert span.attributes["echo.dlq.original_id"] == "m1"
    assert span.span_id in carrier["traceparent"]


def test_a_replayed_message_starts_a_trace_that_links_to_the_first(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    with plugin.messages.process("orders.raw", message, replay=True):
        pass

    (published,) = memory.spans("publish orders.raw")
    (span,) = memory.spans("process orders.raw")
    assert span.parent_span_id == ""
    assert span.trace_id != published.trace_id
    assert [(link.trace_id, link.span_id) for link in span.links] == [(published.trace_id, published.span_id)]
    assert span.attributes["echo.replay"] is True
    assert span.attributes["messaging.message.conversation_id"] == "m1"


@pytest.mark.parametrize(("age_s", "late"), [(3599, False), (3601, True)])
def test_a_message_beyond_the_configured_age_starts_a_new_trace(
    age_s: int, late: bool, start: Start, receiver: OtlpReceiver
) -> None:
    clock = ManualClock()
    telemetry = start(clock=clock)
    plugin = telemetry.for_plugin("sink", "1.0.0")
    with plugin.messages.publish("orders.raw", "m1", "m1") as scope:
        message = Message("m1", timestamp=clock.time_ns(), trace_context=scope.carrier())
    clock.advance(age_s * 1000)
    with plugin.messages.process("orders.raw", message):
        pass
    assert telemetry.flush()

    (span,) = receiver.spans("process orders.raw")
    (published,) = receiver.spans("publish orders.raw")
    assert (span.trace_id != published.trace_id) is late
    assert span.attributes.get("echo.late", False) is late
    assert span.links[0].span_id == published.span_id


def test_a_crash_ends_the_message_with_a_span_of_the_hosts(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    plugin.messages.crash("orders.raw", message, -9)

    (published,) = memory.spans("publish orders.raw")
    (span,) = memory.spans("process orders.raw")
    assert (span.status, span.parent_span_id) == ("error", published.span_id)
    assert span.attributes["error.type"] == "plugin_crash"
    assert span.attributes["echo.plugin.exit_code"] == -9
    (record,) = memory.logs()
    assert (record.severity, record.span_id) == ("ERROR", span.span_id)


def test_a_sampled_header_with_further_flags_is_continued(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = Message("m1", trace_context={"traceparent": f"00-{TRACE}-{SPAN}-03"})
    with plugin.messages.process("orders.raw", message) as scope:
        assert int(scope.traceparent[-2:], 16) & 1
    (span,) = memory.spans()
    assert (span.trace_id, span.parent_span_id) == (TRACE, SPAN)


def test_an_unsampled_header_is_continued_unsampled(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = Message("m1", trace_context={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    with plugin.messages.process("orders.raw", message) as scope:
        assert scope.trace_id_hex == TRACE
        onward = publish(plugin, "orders.valid", "m2", message).trace_context["traceparent"]
    assert onward.split("-")[1] == TRACE
    assert int(onward[-2:], 16) & 1 == 0
    assert memory.spans() == []


@pytest.mark.parametrize(
    "header", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"ff-{TRACE}-{SPAN}-01", "00-x-y-z"]
)
def test_a_malformed_header_counts_as_none(header: str, memory: InMemoryTelemetry) -> None:
    with memory.for_plugin("sink").messages.process(
        "t", Message("m1", trace_context={"traceparent": header})
    ):
        pass
    (span,) = memory.spans()
    assert (span.parent_span_id, span.links) == ("", ())
    assert memory.context.health().faults == {}


def test_tracestate_and_baggage_are_passed_on_unchanged(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    incoming = {
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "tracestate": "vendor=a:1,other=b",
        "baggage": "user=alice%20b;tier=gold,region=eu",
    }
    with plugin.messages.process("orders.raw", Message("m1", trace_context=incoming)):
        onward = publish(plugin, "orders.valid", "m2").trace_context
        hand_made: dict[str, str] = {}
        memory.context.inject(hand_made)
    assert {key: onward[key] for key in ("tracestate", "baggage")} == {
        key: incoming[key] for key in ("tracestate", "baggage")
    }
    assert hand_made["baggage"] == incoming["baggage"]
    assert memory.spans("process orders.raw")[0].trace_state == "vendor=a:1,other=b"


def test_tasks_and_threads_begun_in_the_block_belong_to_the_message(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")

    def work(name: str) -> None:
        with plugin.create_span(name):
            pass

    async def work_in_a_task() -> None:
        work("in a task")

    async def handle() -> None:
        with plugin.messages.process("orders.raw", Message("m1")):
            await asyncio.create_task(work_in_a_task())
            await asyncio.to_thread(work, "in a thread")

    asyncio.run(handle())
    spans = by_name(memory.spans())
    parent = spans["process orders.raw"].span_id
    assert spans["in a task"].parent_span_id == spans["in a thread"].parent_span_id == parent
    assert spans["in a thread"].attributes["message.id"] == "m1"


def test_a_span_current_outside_does_not_become_the_parent_of_a_message(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    message = publish(memory.for_plugin("source"), "orders.raw", "m1")
    with plugin.create_span("a loop"), plugin.messages.process("orders.raw", message):
        pass
    (published,) = memory.spans("publish orders.raw")
    assert memory.spans("process orders.raw")[0].parent_span_id == published.span_id


def test_lifecycle_events_are_never_parents_of_messages(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("source")
    with plugin.lifecycle("init"), plugin.create_span("connect"):
        publish(plugin, "orders.raw", "m1")

    spans = by_name(memory.spans())
    assert spans["plugin.init"].parent_span_id == ""
    assert spans["connect"].parent_span_id == spans["plugin.init"].span_id
    published = spans["publish orders.raw"]
    assert published.parent_span_id == ""
    assert published.trace_id != spans["plugin.init"].trace_id
    assert [link.span_id for link in published.links] == [spans["connect"].span_id]


def test_the_current_span_of_the_api_is_the_message_span(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.messages.process("orders.raw", Message("m1")) as scope:
        assert trace.get_current_span().get_span_context() == scope.span_context
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_failed_publication_is_an_error_span(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("source")
    with pytest.raises(OSError, match="gone"), plugin.messages.publish("orders.raw", "m1", "m1"):
        raise OSError("gone")
    (span,) = memory.spans()
    assert (span.status, span.attributes["error.type"]) == ("error", "OSError")


def test_an_unsampled_trace_still_runs_through_the_whole_chain(start: Start, receiver: OtlpReceiver) -> None:
    telemetry = start(
        environ={"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    )
    headers = [message.trace_context["traceparent"] for message in run_pipeline(telemetry).values()]
    assert telemetry.flush()

    assert receiver.spans() == []
    assert len({header.split("-")[1] for header in headers}) == 1
    assert len({header.split("-")[2] for header in headers}) == 5
    assert all(int(header[-2:], 16) & 1 == 0 for header in headers)
