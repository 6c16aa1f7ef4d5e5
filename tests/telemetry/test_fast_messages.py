"""Whatever happens to messages, the fast engine sends what the official one sends."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from common_telemetry import PluginTelemetry, ProcessScope, TelemetryConfig, environment
from common_telemetry.config import Engine
from telemetry.pipeline import ManualClock, Message
from telemetry.sdk import since_1_45
from telemetry.side_by_side import ENGINES, normal, quiet_sdk, spans

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Iterator[None]:
    with quiet_sdk():
        yield


# What is done, as data: a word, its arguments, and what is done within the block it opens.
Action = tuple[Any, ...]

topics = st.sampled_from(["orders.raw", "orders.valid", "ü", "t" * 200])
ids = st.one_of(st.sampled_from(["m1", "m2", "01890a5d-ac96-774b-bcce-b302099a8057"]), st.text(max_size=150))
id_lists = st.lists(ids, max_size=2).map(tuple)


def weighted(*choices: tuple[st.SearchStrategy[Any], int]) -> st.SearchStrategy[Any]:
    """One of these, each as often as its weight says: rare ways would lead past most of what can happen."""
    return st.sampled_from([one for one, weight in choices for _ in range(weight)]).flatmap(lambda one: one)


usual = st.builds(lambda flags: {"traceparent": f"00-{TRACE}-{SPAN}-{flags:02x}"}, st.integers(0, 255))
with_more = st.fixed_dictionaries(
    {"traceparent": st.just(f"00-{TRACE}-{SPAN}-01")},
    optional={
        "tracestate": st.sampled_from(["vendor=a:1,other=b", "", "no state"]),
        "baggage": st.sampled_from(["user=alice%20b;tier=gold,region=eu", "", "=,"]),
        "x-other": st.just("1"),
    },
)
odd = st.builds(
    lambda header: {"traceparent": header},
    st.sampled_from(
        [
            "",
            f" 00-{TRACE}-{SPAN}-01\t",
            f"00-{TRACE}-{SPAN}-01-more",
            f"01-{TRACE}-{SPAN}-01-more",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE[1:]}-{SPAN}-011",
            f"ff-{TRACE}-{SPAN}-01",
        ]
    ),
)
carriers: st.SearchStrategy[dict[str, str]] = weighted((usual, 5), (with_more, 2), (st.just({}), 1), (odd, 1))
ages_s = st.sampled_from([0.0, 0.0, 0.25, 0.25, -1.0, 3599.0, 3601.0])
messages = st.tuples(ids, ids, id_lists, ages_s, carriers)
attributes = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["k", "message.id", "messaging.system", "echo.delivery.attempt", "", "plugin.name"]),
        st.one_of(st.booleans(), st.text(max_size=3), st.lists(st.integers(), max_size=2)),
        max_size=3,
    ),
)
failures = st.one_of(st.text(max_size=5), st.builds(ValueError, st.text(max_size=5)))
passing = st.one_of(st.none(), st.builds(KeyError, st.text(max_size=5)))

steps: st.SearchStrategy[list[Action]] = st.deferred(lambda: st.lists(step, max_size=5))
process = st.tuples(
    st.just("process"),
    topics,
    messages,
    st.integers(1, 20),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, True]),
    passing,
    steps,
)
publish = st.tuples(st.just("publish"), topics, ids, ids, id_lists, passing, steps)
to_the_span = st.one_of(
    st.tuples(st.just("set"), attributes),
    st.tuples(st.just("set_all"), attributes),
    st.tuples(st.just("set_many"), st.integers(25, 140)),
    st.tuples(st.just("rename"), st.text(max_size=5)),
    st.tuples(st.just("link"), st.integers(1, 5)),
    st.tuples(st.just("event"), st.text(max_size=5)),
    st.tuples(st.just("outcome"), st.sampled_from(["processed", "filtered"])),
    st.tuples(st.just("fail"), failures, st.one_of(st.none(), st.text(max_size=5))),
)
rare = st.one_of(
    st.tuples(st.just("batch"), topics, st.lists(messages, max_size=3), steps),
    st.tuples(st.just("dead_letter"), topics, messages, st.text(max_size=3)),
    st.tuples(st.just("crash"), topics, messages, st.integers(-9, 1)),
    st.tuples(st.just("lifecycle"), st.sampled_from(["init", "health_check"]), passing, steps),
    st.tuples(st.just("create_span"), st.text(max_size=5), attributes, passing, steps),
    st.tuples(st.just("around"), st.integers(0, 3), steps),
    st.tuples(st.just("status"), st.sampled_from(["running", "stopping"])),
    st.tuples(st.just("baggage"), steps),
    st.tuples(st.just("wait"), st.integers(0, 5000)),
)
step: st.SearchStrategy[Action] = weighted((process, 4), (publish, 3), (to_the_span, 5), (rare, 3))
configs = st.fixed_dictionaries(
    {},
    optional={
        "semconv": st.sampled_from(["both", "echo", "otel"]),
        "links": st.sampled_from(["always", "needed"]),
    },
)
environs = st.fixed_dictionaries(
    {},
    optional={
        "OTEL_TRACES_SAMPLER": st.sampled_from(
            ["always_on", "always_off", "parentbased_always_off", "traceidratio", "parentbased_traceidratio"]
        ),
        "OTEL_TRACES_SAMPLER_ARG": st.sampled_from(["0", "1"]),
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": st.sampled_from(["3", "63", "64"]),
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": st.sampled_from(["2", "1000"]),
        "OTEL_SPAN_LINK_COUNT_LIMIT": st.sampled_from(["0", "64"]),
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": st.sampled_from(["0", "64"]),
    },
)


class Player:
    """Does what a program says, as a host and its plugins would."""

    def __init__(self, plugin: PluginTelemetry, clock: ManualClock) -> None:
        self.carriers: list[tuple[str, ...]] = []
        self._plugin = plugin
        self._clock = clock
        self._processed: ProcessScope | None = None

    def play(self, program: Sequence[Action], scope: ProcessScope | None = None) -> None:
        for word, *arguments in program:
            try:
                getattr(self, f"_{word}")(scope, *arguments)
            except KeyError:  # one that a block was left with
                continue

    def _process(
        self,
        scope: ProcessScope | None,
        topic: str,
        message: tuple[Any, ...],
        attempt: int,
        again: bool,
        replay: bool,
        error: Exception | None,
        within: list[Action],
    ) -> None:
        previous = self._processed if again else None
        opened = self._plugin.messages.process(
            topic, self._message(message), attempt=attempt, previous=previous, replay=replay
        )
        with opened:
            self.play(within, opened)
            if error is not None:
                raise error
        self._processed = opened
        assert opened.topic == topic
        assert len(opened.trace_id_hex) == 32

    def _publish(
        self,
        scope: ProcessScope | None,
        topic: str,
        message_id: str,
        root_id: str,
        parent_ids: tuple[str, ...],
        error: Exception | None,
        within: list[Action],
    ) -> None:
        with self._plugin.messages.publish(topic, message_id, root_id, parent_ids) as opened:
            self.play(within, scope)
            self._keep(opened.carrier())
            if error is not None:
                raise error

    def _batch(
        self, scope: ProcessScope | None, topic: str, made: list[tuple[Any, ...]], within: list[Action]
    ) -> None:
        with self._plugin.messages.batch(topic, [self._message(one) for one in made]) as opened:
            self.play(within, opened)

    def _dead_letter(
        self, scope: ProcessScope | None, topic: str, message: tuple[Any, ...], reason: str
    ) -> None:
        if self._processed is not None:
            letter = self._plugin.messages.dead_letter(topic, self._message(message), reason, self._processed)
            with letter:
                self._keep(letter.carrier())

    def _crash(
        self, scope: ProcessScope | None, topic: str, message: tuple[Any, ...], exit_code: int
    ) -> None:
        self._plugin.messages.crash(topic, self._message(message), exit_code)

    def _lifecycle(
        self, scope: ProcessScope | None, event: str, error: Exception | None, within: list[Action]
    ) -> None:
        with self._plugin.lifecycle(event):
            self.play(within, scope)
            if error is not None:
                raise error

    def _create_span(
        self,
        scope: ProcessScope | None,
        name: str,
        given: Any,
        error: Exception | None,
        within: list[Action],
    ) -> None:
        with self._plugin.create_span(name, given):
            self.play(within, scope)
            if error is not None:
                raise error

    def _around(self, scope: ProcessScope | None, flags: int, within: list[Action]) -> None:
        foreign = NonRecordingSpan(SpanContext(17, 4, bool(flags & 2), TraceFlags(flags)))
        with trace.use_span(foreign):
            self.play(within, scope)

    def _fail(self, scope: ProcessScope | None, error: Exception | str, error_type: str | None) -> None:
        if scope is not None:
            scope.fail(error, error_type)

    def _outcome(self, scope: ProcessScope | None, name: str) -> None:
        if scope is not None:
            scope.outcome(name)

    def _set(self, scope: ProcessScope | None, given: Mapping[str, Any] | None) -> None:
        span = trace.get_current_span()
        for key, value in (given or {}).items():
            span.set_attribute(key, value)

    def _set_all(self, scope: ProcessScope | None, given: Mapping[str, Any] | None) -> None:
        trace.get_current_span().set_attributes(given or {})

    def _set_many(self, scope: ProcessScope | None, count: int) -> None:
        for number in range(count):
            trace.get_current_span().set_attribute(f"key {number}", number)

    def _rename(self, scope: ProcessScope | None, name: str) -> None:
        trace.get_current_span().update_name(name)

    def _link(self, scope: ProcessScope | None, span_id: int) -> None:
        trace.get_current_span().add_link(SpanContext(17, span_id, True), {"k": "v"})

    def _event(self, scope: ProcessScope | None, name: str) -> None:
        trace.get_current_span().add_event(name, {"k": "v"}, 17)

    def _status(self, scope: ProcessScope | None, status: str) -> None:
        self._plugin.status = status

    def _baggage(self, scope: ProcessScope | None, within: list[Action]) -> None:
        token = otel_context.attach(baggage.set_baggage("user", "bob"))
        try:
            self.play(within, scope)
        finally:
            otel_context.detach(token)

    def _wait(self, scope: ProcessScope | None, milliseconds: int) -> None:
        self._clock.advance(milliseconds)

    def _message(self, made: tuple[Any, ...]) -> Message:
        message_id, root_id, parent_ids, age_s, carrier = made
        born = self._clock.time_ns() - int(age_s * 1e9)
        return Message(message_id, root_id, parent_ids, born, carrier)

    def _keep(self, carrier: Mapping[str, str]) -> None:
        version, _, _, flags = carrier["traceparent"].split("-")
        rest = {key: value for key, value in carrier.items() if key != "traceparent"}
        self.carriers.append((version, flags, repr(sorted(rest.items()))))


class Epoch(ManualClock):
    """Stands in the first hours of Unix time, so that its times are told from those nobody gave."""

    def time_ns(self) -> int:
        return 10**15 + self.perf_counter_ns()


def outcome(engine: Engine, program: list[Action], config: dict[str, Any], environ: dict[str, str]) -> Any:
    """What is sent, what carriers carry, and what health says."""
    made, clock = spans(engine, environ), Epoch()
    with environment.in_force(environ):
        telemetry = made.context(TelemetryConfig(engine=engine, **config), clock)
    player = Player(telemetry.for_plugin("sink", "1.0.0", "running"), clock)
    player.play(program)
    request = made.request()
    for group in request.resource_spans:
        # That of the tests for the one engine, that of this process for the other.
        group.ClearField("resource")
        group.schema_url = ""
    faults = telemetry.health().faults
    telemetry.shutdown()
    return normal(request), player.carriers, faults


@since_1_45
@given(
    st.lists(weighted((process, 3), (step, 1)), min_size=1, max_size=5),
    configs,
    weighted((st.just({}), 1), (environs, 1)),
)
def test_any_way_of_messages_gives_the_same_request(
    program: list[Action], config: dict[str, Any], environ: dict[str, str]
) -> None:
    official, fast = (outcome(engine, program, config, environ) for engine in ENGINES)
    assert fast == official


USUAL = ("m1", "m0", ("m0",), 0.25, {"traceparent": f"00-{TRACE}-{SPAN}-01"})
WITH_STATE = (*USUAL[:4], {**USUAL[4], "tracestate": "vendor=a:1,other=b"})


def handled(message: tuple[Any, ...], *within: Action) -> list[Action]:
    return [("process", "orders.raw", message, 1, False, False, None, list(within))]


PUBLISH: Action = ("publish", "orders.valid", "m2", "m0", ("m1",), None, [])


@pytest.mark.parametrize("limit", ["0", "1", "63"])
@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
    ],
)
def test_low_limits_hold_for_messages_too(variable: str, limit: str) -> None:
    program = handled(USUAL, ("link", 3), ("event", "look"), ("set_many", 70), PUBLISH)
    official, fast = (outcome(engine, program, {}, {variable: limit}) for engine in ENGINES)
    assert fast == official


@pytest.mark.parametrize(
    "done",
    [
        ("set", {"message.id": "other", "k": 1}),
        ("set", {"messaging.system": "other"}),
        ("set_all", {"message.topic": "other", "k": 1}),
        ("set_many", 33),
        ("set_many", 140),
        ("link", 3),
        ("rename", "another name"),
        ("fail", ValueError("broken"), None),
        ("fail", "broken", "timeout"),
    ],
    ids=str,
)
@pytest.mark.parametrize("message", [USUAL, WITH_STATE], ids=["usual", "with trace state"])
def test_whatever_is_done_to_a_message_span_it_keeps_what_it_began_with(
    message: tuple[Any, ...], done: Action
) -> None:
    program = handled(message, done, PUBLISH, ("outcome", "processed"))
    official, fast = (outcome(engine, program, {}, {}) for engine in ENGINES)
    assert fast == official
    assert fast[0].count("parent_span_id") == 2
