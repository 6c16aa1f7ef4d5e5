"""Spans of the fast engine where the SDK is no measure: threads, forks, broken input, foreign processors."""

import asyncio
import logging
import math
import os
import random
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, get_value
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanProto
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import NonRecordingSpan, SpanKind, Status, StatusCode

from common_telemetry import SpanRecord, TelemetryConfig
from common_telemetry.config import Engine
from common_telemetry.engines.fast import messages, primitives
from common_telemetry.engines.fast.current_span import MessageContext
from common_telemetry.engines.fast.lazy_context import LazyContext
from common_telemetry.engines.fast.provider import FastTracerProvider
from common_telemetry.engines.fast.spans import FastSpan
from common_telemetry.engines.fast.trace_bytes import span_buffer
from common_telemetry.engines.fast.worker import ExportWorker
from common_telemetry.health import Faults
from common_telemetry.tap import Tap
from common_telemetry.testing import InMemoryTelemetry
from telemetry.pipeline import Message, publish, run_pipeline
from telemetry.side_by_side import ENGINES, RESOURCE, FastSpans, normal, quiet_sdk, spans


@pytest.fixture
def fast() -> FastSpans:
    made = spans("fast")
    assert isinstance(made, FastSpans)
    return made


@pytest.fixture
def memory() -> Iterator[InMemoryTelemetry]:
    with InMemoryTelemetry(TelemetryConfig(engine="fast")) as telemetry:
        yield telemetry


def provider_of(memory: InMemoryTelemetry) -> FastTracerProvider:
    tracing = memory.context._providers
    assert tracing is not None
    assert isinstance(tracing.tracer, FastTracerProvider)
    return tracing.tracer


def sent(fast: FastSpans) -> list[SpanProto]:
    return [
        span for group in fast.request().resource_spans for part in group.scope_spans for span in part.spans
    ]


# --- what is there to be asked


def test_a_span_answers_what_instrumentations_ask_of_the_sdks(fast: FastSpans) -> None:
    span: Any = fast.provider.get_tracer("a.library").start_span(
        "query", kind=SpanKind.SERVER, attributes={"k": 1}
    )
    assert (span.name, span.kind, dict(span.attributes)) == ("query", SpanKind.SERVER, {"k": 1})
    assert span.context is span.get_span_context()
    assert (span.status.status_code, span.end_time) == (StatusCode.UNSET, None)
    span.set_status(Status(StatusCode.ERROR, "broken"))
    span.end()
    assert (span.status.description, span.is_recording()) == ("broken", False)
    assert span.start_time <= span.end_time
    assert f"{span.context.trace_id:032x}" in repr(span)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_publication_is_current_when_it_is_told_to_be(engine: Engine) -> None:
    with InMemoryTelemetry(TelemetryConfig(engine=engine)) as memory:
        plugin = memory.for_plugin("sink")
        with plugin.messages.process("t", Message("m1")) as handling:
            with plugin.messages.publish("u", "m2", "m1", ("m1",), False) as publication:
                publication.make_current()
                publication.make_current()
                with plugin.create_span("within"):
                    pass
            with plugin.messages.publish("u", "m3", "m1", ("m1",), False) as unlooked:
                pass
            with plugin.create_span("after"):
                pass
        assert otel_context.get_current() == {}
        parents = {span.name: span.parent_span_id for span in memory.spans()}
        hexes = [f"{scope.span_context.span_id:016x}" for scope in (publication, handling)]
        assert [parents["within"], parents["after"]] == hexes
        assert unlooked.traceparent[3:35] == handling.trace_id_hex


def test_no_span_is_made_until_somebody_asks(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    with plugin.messages.process("t", Message("m1")) as scope, plugin.create_span("step") as step:
        assert isinstance(scope, MessageContext)
        assert isinstance(step, FastSpan)
        plugin.record_counter("counted")
        assert (dict.__len__(scope), step._known) == (0, None)
        outer = trace.get_current_span(cast("Context", scope))
        assert isinstance(outer, FastSpan)
        assert (outer.span_id, outer.trace_id) == (step.parent_id, step.trace_id)
        assert trace.get_current_span(Context(scope.copy())) is outer
        assert trace.get_current_span(Context({**scope})) is outer


@pytest.mark.parametrize(
    "look",
    [
        lambda lazy: lazy["k"],
        lambda lazy: lazy.get("k"),
        lambda lazy: dict(lazy)["k"],
        lambda lazy: (lazy | {"other": 2})["k"],
        lambda lazy: ({"other": 2} | lazy)["k"],
        lambda lazy: dict(lazy.items())["k"],
        lambda lazy: next(iter(lazy.values())),
        lambda lazy: len(lazy),
        lambda lazy: int("k" in lazy),
        lambda lazy: int(list(lazy) == list(lazy.keys()) == list(reversed(lazy)) == ["k"]),
        lambda lazy: int(lazy == {"k": 1}),
        lambda lazy: int(repr(lazy) == "{'k': 1}"),
        lambda lazy: lazy.copy()["k"],
        lambda lazy: otel_context.set_value("other", 2, lazy)["k"],
    ],
)
def test_a_lazy_context_is_there_however_one_looks(look: Callable[[Any], object]) -> None:
    class Lazy(LazyContext):
        def content(self) -> Mapping[str, object]:
            return {"k": 1}

    assert look(Lazy()) == 1
    assert Lazy()


def test_a_stack_trace_leads_to_where_it_happened(fast: FastSpans) -> None:
    def at_fault() -> None:
        raise ValueError("here")

    tracer = fast.provider.get_tracer("a.library")
    with pytest.raises(ValueError, match="here") as caught, tracer.start_as_current_span("step"):
        at_fault()
    (span,) = sent(fast)
    (event,) = span.events
    found = {attribute.key: attribute.value.string_value for attribute in event.attributes}
    assert "in at_fault" in found["exception.stacktrace"]
    assert found["exception.stacktrace"] in "".join(traceback.format_exception(caught.value))
    assert (span.status.message, found["exception.escaped"]) == ("ValueError: here", "False")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit(), KeyboardInterrupt()])
def test_what_is_no_error_of_the_blocks_ends_the_span_and_says_nothing(
    error: BaseException, fast: FastSpans
) -> None:
    tracer = fast.provider.get_tracer("a.library")
    with pytest.raises(type(error)), tracer.start_as_current_span("step"):
        raise error
    (span,) = sent(fast)
    assert (len(span.events), span.status.code) == (0, 0)


def test_functions_and_coroutines_can_be_decorated(fast: FastSpans) -> None:
    tracer = fast.provider.get_tracer("a.library")

    @tracer.start_as_current_span("sync")
    def add(one: int, other: int = 1) -> int:
        assert trace.get_current_span().name == "sync"  # type: ignore[attr-defined]
        return one + other

    @tracer.start_as_current_span("async")
    async def wait() -> str:
        before = trace.get_current_span()
        await asyncio.sleep(0)
        assert trace.get_current_span() is before
        return "done"

    assert (add(1), add(2, other=2), asyncio.run(wait())) == (2, 4, "done")
    assert [span.name for span in sent(fast)] == ["sync", "sync", "async"]


def test_a_block_may_leave_its_span_open(fast: FastSpans) -> None:
    tracer = fast.provider.get_tracer("a.library")
    with tracer.start_as_current_span("step", end_on_exit=False) as span:
        pass
    assert span.is_recording()
    assert sent(fast) == []
    span.end()
    assert [one.name for one in sent(fast)] == ["step"]


# --- ids


def test_ids_are_random_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({primitives.new_trace_id() for _ in range(1000)}) == 1000
    if not hasattr(primitives, "_bits"):
        pytest.skip("in C there is nothing to put in its place")
    monkeypatch.setattr(primitives, "_bits", lambda bits: 0)
    assert primitives.new_trace_id() == bytes(15) + b"\x01"
    assert primitives.new_span_id() == bytes(7) + b"\x01"


def test_a_handler_that_seeds_random_does_not_make_ids_repeat() -> None:
    random.seed(17)
    first = primitives.new_trace_id()
    random.seed(17)
    assert primitives.new_trace_id() != first


def test_a_forked_child_makes_other_ids_and_sends_nothing_of_its_parents(fast: FastSpans) -> None:
    tracer = fast.provider.get_tracer("a.library")
    tracer.start_span("of the parent").end()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            tracer.start_span("of the child").end()
            drained = fast.buffer.drain(10)
            assert drained is not None
            os.write(writing, drained[0])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    tracer.start_span("of the parent again").end()
    with os.fdopen(reading, "rb") as pipe:
        request = type(fast.request()).FromString(pipe.read())
    (theirs,) = request.resource_spans[0].scope_spans[0].spans
    assert theirs.name == "of the child"


# --- threads


def test_from_many_threads_everything_is_sent_or_counted() -> None:
    buffer = span_buffer(1000, Faults(), batch=64)
    faults = Faults()
    provider = FastTracerProvider(RESOURCE, buffer, Tap(faults), faults)
    tracer = provider.get_tracer("a.library")
    stop, drained = threading.Event(), [0]

    def drain() -> None:
        while not stop.is_set() or len(buffer):
            found = buffer.drain(64)
            drained[0] += found[1] if found else 0
            buffer.settle()

    def work() -> None:
        for _ in range(2000):
            with tracer.start_as_current_span("step") as span:
                span.set_attribute("k", 1)

    draining = threading.Thread(target=drain)
    working = [threading.Thread(target=work) for _ in range(4)]
    draining.start()
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    stop.set()
    draining.join()
    assert drained[0] + buffer.dropped == 8000


# --- nothing raises, nothing grows


class Hostile:
    """Raises whatever is asked of it."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


def test_nothing_that_is_done_to_a_span_raises(fast: FastSpans) -> None:
    endless: list[Any] = []
    endless.append(endless)
    tracer = fast.provider.get_tracer("a.library")
    with quiet_sdk():
        odds: list[Any] = [Hostile(), endless, object(), {"k": endless}, 17, "text", math.nan, "\ud800", None]
        for odd in odds:
            span = tracer.start_span(odd, attributes=odd, links=odd)
            span.set_attribute("k", odd)
            span.set_attribute(odd, 1)
            span.set_attributes(odd)
            span.add_event(odd, odd, odd)
            span.add_link(odd, odd)
            span.update_name(odd)
            span.set_status(odd, odd)
            span.record_exception(ValueError(odd), odd, odd)
            span.end(odd)
            span.end()
    found = sent(fast)
    assert len(found) == 9
    assert found[7].name == "?"
    assert fast.faults.counts()["span"] > 0


def test_what_has_no_form_in_otlp_takes_nothing_else_with_it(fast: FastSpans) -> None:
    span = fast.provider.get_tracer("a.library").start_span("step")
    span.set_attributes({"half a pair": "\ud800", "whole": "ok", "huge": 2**64})
    span.add_event("event", {"huge": 2**64, "k": 1})
    span.end()
    (found,) = sent(fast)
    assert [attribute.key for attribute in found.attributes] == ["whole"]
    assert [attribute.key for attribute in found.events[0].attributes] == ["k"]
    assert fast.faults.counts()["attribute"] == 3


def test_ids_of_messages_may_be_anything(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    for message_id in ("\ud800", 17, b"m", "x" * 100_000):
        message = Message(message_id)  # type: ignore[arg-type]
        with plugin.messages.process("t", message):
            publish(plugin, "u", message_id, message)  # type: ignore[arg-type]
    assert len(memory.spans("process t")) == len(memory.spans("publish u")) == 4
    assert memory.spans("process t")[3].attributes["message.id"] == "x" * 100_000


def test_a_hundred_thousand_keys_stay_within_the_limit(memory: InMemoryTelemetry) -> None:
    with memory.for_plugin("sink").messages.process("t", Message("m1")), quiet_sdk():
        span = trace.get_current_span()
        for number in range(100_000):
            span.set_attribute(f"key {number}", number)
        span.set_attributes({f"more {number}": number for number in range(100_000)})
    (found,) = memory.spans()
    assert len(found.attributes) == 128
    assert found.attributes["more 99999"] == 99_999


def test_topics_made_of_data_do_not_fill_the_memory(
    memory: InMemoryTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_SITES_KEPT", 10)
    plugin = memory.for_plugin("sink")
    for number in range(25):
        with plugin.messages.process(f"t.{number}", Message("m1")):
            publish(plugin, f"u.{number}", "m2")
    assert {len(kept) for kept in (plugin.messages._sites, plugin.messages._places)} == {5}  # type: ignore[attr-defined]
    assert len(memory.spans()) == 50


def test_a_full_buffer_drops_what_comes_and_counts_it(fast: FastSpans) -> None:
    buffer = span_buffer(5, Faults())
    provider = FastTracerProvider(RESOURCE, buffer, Tap(Faults()), Faults())
    for number in range(8):
        provider.get_tracer("a.library").start_span(f"{number}").end()
    assert (len(buffer), buffer.dropped) == (5, 3)
    assert buffer.drain(2) is not None
    provider.get_tracer("a.library").start_span("while two are on their way").end()
    assert (len(buffer), buffer.dropped) == (3, 4)
    buffer.settle()
    provider.get_tracer("a.library").start_span("when they have gone").end()
    assert (len(buffer), buffer.dropped) == (4, 4)
    buffer.discard()
    assert (len(buffer), buffer.dropped) == (0, 8)


# --- the tap


def test_a_tap_changes_nothing_about_what_is_sent(memory: InMemoryTelemetry) -> None:
    seen: list[SpanRecord] = []
    memory.context.tap(seen.append)
    run_pipeline(memory.context)
    assert [(record.name, record.attributes) for record in seen] == [
        (span.name, span.attributes) for span in memory.spans()
    ]


# --- somebody needs spans of the SDK's own


class Watching(SpanProcessor):
    """A span processor of an application's."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self.started.append(span.name)
        span.set_attribute("seen", True)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def test_a_span_processor_added_later_sees_every_span_and_all_still_arrive(
    memory: InMemoryTelemetry, caplog: pytest.LogCaptureFixture
) -> None:
    provider = provider_of(memory)
    before = provider.get_tracer("made before")
    run_pipeline(memory.context)
    fast = {span.name: span for span in memory.spans()}
    with caplog.at_level(logging.WARNING):
        watching = Watching()
        provider.add_span_processor(watching)
        provider.add_span_processor(Watching())
    (said,) = caplog.records
    assert "Watching" in said.getMessage()
    assert "engine 'official'" in said.getMessage()

    run_pipeline(memory.context)
    before.start_span("query").end()
    provider.get_tracer("made after").start_span("query").end()
    assert len(watching.started) == len(watching.ended) == 12
    later = memory.spans()[10:]
    assert {span.scope for span in later if span.name == "query"} == {"made before", "made after"}
    official = {span.name: span for span in later if span.name != "query"}
    assert (len(later), official.keys()) == (12, fast.keys())
    for name, span in official.items():
        assert span.attributes.keys() == fast[name].attributes.keys() | {"seen"}
        assert (span.kind, span.scope, span.resource) == (
            fast[name].kind,
            fast[name].scope,
            fast[name].resource,
        )


def test_spans_of_the_sdk_come_back_with_everything_they_have(fast: FastSpans) -> None:
    official = spans("official", {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1"})
    returning = spans("fast", {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1"})
    returning.provider.add_span_processor(Watching())
    official.provider.add_span_processor(Watching())
    for made in (official, returning):
        remote = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))
        parent = trace.set_span_in_context(NonRecordingSpan(remote), Context())
        tracer = made.provider.get_tracer("a.library", "1", "https://example.org", {"k": 1})
        span = tracer.start_span("step", parent, SpanKind.CLIENT, links=[trace.Link(remote, {"l": (1, 2)})])
        for number in range(2):
            span.add_event(f"event {number}", {"e": number})
        span.set_status(StatusCode.ERROR, "broken")
        span.end()
    assert normal(returning.request()) == normal(official.request())


def test_flushing_the_provider_flushes_the_telemetry(memory: InMemoryTelemetry) -> None:
    provider = provider_of(memory)
    provider.get_tracer("a.library").start_span("query").end()
    assert provider.force_flush()
    assert memory.context.health().traces.exported == 1


def test_instrumented_libraries_make_no_spans_of_the_export() -> None:
    seen: list[object] = []
    worker = ExportWorker("test", 3600, lambda due: seen.append(get_value(_SUPPRESS_INSTRUMENTATION_KEY)))
    worker.wake()
    assert worker.run(lambda: None).done.wait(20)
    closed = threading.Event()
    worker.close(last=closed.set)
    assert closed.wait(20)
    assert seen == [True]
    assert get_value(_SUPPRESS_INSTRUMENTATION_KEY) is None
