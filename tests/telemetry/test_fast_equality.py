"""Whatever is done to spans, the fast engine sends what the SDK would send."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)

from telemetry.sdk import since_1_45
from telemetry.side_by_side import ENGINES, normal, quiet_sdk, spans


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with quiet_sdk():
        yield


class Thing:
    """No attribute value, but it has a text."""

    def __str__(self) -> str:
        return "a thing"


# Hypothesis prints what fails, so actions are data: what to call with what.
Action = tuple[str, tuple[Any, ...]]

texts = st.text(max_size=8)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from(HTTPStatus),
    st.floats(),
    st.text(st.characters(), max_size=8),  # surrogates included
    st.binary(max_size=4),
    st.builds(Thing),
    st.builds(object),
)
keys = st.one_of(st.sampled_from(["a", "b", "c", "plugin.name"]), texts)
odd_keys = st.one_of(keys, st.integers(0, 3), st.none(), st.builds(Thing))
values = st.recursive(
    scalars,
    lambda parts: st.one_of(st.lists(parts, max_size=3), st.dictionaries(odd_keys, parts, max_size=3)),
    max_leaves=5,
)
attributes = st.one_of(st.none(), st.dictionaries(odd_keys, values, max_size=5))
times = st.one_of(st.none(), st.integers(0, 10**9))
trace_states = st.sampled_from([None, TraceState([("vendor", "a:1"), ("other", "b")])])
contexts = st.builds(
    SpanContext,
    trace_id=st.sampled_from([0, 1, 2**128 - 1]),
    span_id=st.sampled_from([0, 1, 2**64 - 1]),
    is_remote=st.booleans(),
    trace_flags=st.integers(0, 3).map(TraceFlags),
    trace_state=trace_states,
)
links = st.lists(st.tuples(contexts, attributes), max_size=3)
parents = st.one_of(st.just("current"), st.just("none"), contexts)
errors = st.builds(ValueError, texts)

actions: st.SearchStrategy[Action] = st.one_of(
    st.tuples(
        st.just("start"),
        st.tuples(texts, st.sampled_from(SpanKind), parents, attributes, links, times, st.booleans()),
    ),
    st.tuples(st.just("set_attribute"), st.tuples(odd_keys, values)),
    st.tuples(st.just("set_attributes"), st.tuples(st.dictionaries(odd_keys, values, max_size=5))),
    st.tuples(st.just("add_event"), st.tuples(texts, attributes, times)),
    st.tuples(st.just("add_link"), st.tuples(contexts, attributes)),
    st.tuples(st.just("set_status"), st.tuples(st.sampled_from(StatusCode), st.one_of(st.none(), texts))),
    st.tuples(
        st.just("set_status"),
        st.tuples(st.builds(Status, st.sampled_from(StatusCode), st.one_of(st.none(), texts))),
    ),
    st.tuples(st.just("update_name"), st.tuples(texts)),
    st.tuples(st.just("record_exception"), st.tuples(errors, attributes, times, st.booleans())),
    st.tuples(st.just("end"), st.tuples(times)),
    st.tuples(st.just("leave"), st.tuples(st.one_of(st.none(), errors))),
)
limits = st.dictionaries(
    st.sampled_from(
        [
            "OTEL_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
            "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
            "OTEL_SPAN_LINK_COUNT_LIMIT",
        ]
    ),
    st.sampled_from(["0", "1", "2", "3", "100", ""]),
    max_size=3,
)
samplers = st.sampled_from(["always_on", "always_off", "parentbased_always_on", "parentbased_always_off"])


def play(tracer: Tracer, program: Sequence[Action]) -> None:
    """Do what the program says to a stack of spans, each current within the one below."""
    open_spans: list[tuple[Span, Any]] = []
    ended: list[Span] = []
    for call, arguments in program:
        if call == "start":
            name, kind, parent, given, linked, time, as_current = arguments
            where = (
                {"current": None, "none": Context()}.get(parent)
                if isinstance(parent, str)
                else (trace.set_span_in_context(NonRecordingSpan(parent), Context()))
            )
            made = [Link(context, about) for context, about in linked]
            block: Any
            if as_current:
                block = tracer.start_as_current_span(name, where, kind, given, made, time)
            else:
                block = tracer.start_span(name, where, kind, given, made, time)
            open_spans.append((block.__enter__(), block))
        elif not open_spans:
            continue
        elif call == "leave":
            span, block = open_spans.pop()
            ended.append(span)
            error = arguments[0]
            with suppress(ValueError):  # the SDK's block is a generator, which raises what it lets through
                block.__exit__(error and type(error), error, None)
        elif call in ("set_attribute", "set_status", "end") and ended and len(ended) % 2:
            getattr(ended[-1], call)(*arguments)  # on a span that has ended: without effect
        else:
            getattr(open_spans[-1][0], call)(*arguments)
    while open_spans:
        open_spans.pop()[1].__exit__(None, None, None)


def both(
    program: Sequence[Action], environ: Mapping[str, str], make_sampler: Callable[[], Sampler] | None = None
) -> list[str]:
    found = []
    for engine in ENGINES:
        made = spans(engine, environ, make_sampler() if make_sampler else None)
        tracer = made.provider.get_tracer("a.library", "1.2.3", "https://example.org/1", {"k": (1, "a")})
        play(tracer, program)
        found.append(normal(made.request()))
    return found


@since_1_45
@given(st.lists(actions, max_size=12), limits, samplers)
def test_any_use_of_spans_gives_the_same_request(
    program: list[Action], environ: dict[str, str], sampler: str
) -> None:
    official, fast = both(program, {**environ, "OTEL_TRACES_SAMPLER": sampler})
    assert fast == official


class Recorder(Sampler):
    """Decides by the name of a span, adds to what it is given, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.asked.append((trace_id < 2**128, name, kind, repr(attributes), len(links or ()), trace_state))
        decision = list(Decision)[len(name) % 3]
        return SamplingResult(decision, {**(attributes or {}), "sampler": "asked"}, TraceState([("s", "1")]))

    def get_description(self) -> str:
        return "Recorder"


@since_1_45
@given(st.lists(actions, max_size=8))
def test_a_sampler_of_any_kind_is_asked_the_same_and_obeyed(program: list[Action]) -> None:
    made: list[Recorder] = []

    def make() -> Recorder:
        made.append(Recorder())
        return made[-1]

    official, fast = both(program, {}, make)
    assert fast == official
    assert made[0].asked == made[1].asked


@pytest.mark.parametrize("codes", list(product(StatusCode, repeat=3)), ids=str)
def test_ok_is_the_last_word_and_unset_says_nothing(codes: tuple[StatusCode, ...]) -> None:
    start: Action = ("start", ("step", SpanKind.INTERNAL, "none", None, [], None, False))
    official, fast = both([start, *(("set_status", (code, "why")) for code in codes)], {})
    assert fast == official


@since_1_45
@pytest.mark.parametrize("limit", ["0", "1", "2", "3"])
def test_of_more_links_than_there_may_be_the_last_stay(limit: str) -> None:
    linked = [(SpanContext(1, number, is_remote=True), {"k": number}) for number in (1, 2, 0, 3)]
    program: list[Action] = [("start", ("step", SpanKind.INTERNAL, "none", None, linked, None, False))]
    official, fast = both(program, {"OTEL_SPAN_LINK_COUNT_LIMIT": limit})
    assert fast == official


def test_values_that_are_equal_are_still_told_apart() -> None:
    start: Action = ("start", ("step", SpanKind.INTERNAL, "none", None, [], None, False))
    program: list[Action] = []
    for value in (1, True, 1.0, 0, False, 0.0, -0.0, "1", b"1", None):
        program += [start, ("set_attribute", ("k", value)), ("leave", (None,))]
    official, fast = both(program, {})
    assert fast == official
