"""Traffic nobody has thought of: what a host, its plugins and their libraries may do, made from a seed.

Everything goes through public doors, and no choice depends on what telemetry answers: the same seed does the
same to any engine.
"""

import asyncio
import enum
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any, Final

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
    TraceState,
)

from common_telemetry import PluginTelemetry, ProcessScope, TelemetryContext
from telemetry.pipeline import ManualClock, Message

TOPICS: Final = ("orders.raw", "orders.valid", "a", "ü.ß.𝄞", "t" * 300)
PLUGINS: Final = ("source", "check", "shape", "sink")
KEYS: Final = ("k", "n", "size", "a.b.c", "plugin.name", "message.id", "ü", "password", "", "k" * 200)
_DEEPEST: Final = 4
_TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
_SPAN: Final = "b7ad6b7169203331"


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    """A text of a class of its own."""


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class PluginBrokeError(Exception):
    """What plugins of this traffic raise."""


class Traffic:
    """Does as the seed says; `carriers` has what went out with messages, `did` what was done, to be read."""

    def __init__(
        self,
        telemetry: TelemetryContext,
        tracers: TracerProvider,
        meters: MeterProvider,
        clock: ManualClock,
        seed: int,
    ) -> None:
        self.carriers: list[Mapping[str, str]] = []
        self.did: list[str] = []
        self._random = Random(seed)
        self._clock = clock
        self._plugins = [telemetry.for_plugin(name, "1.2.3", "running") for name in PLUGINS]
        self._libraries = [
            tracers.get_tracer("http.client", "2.0", "https://example.org/1", {"k": ("a", 1)}),
            tracers.get_tracer("database"),
        ]
        self._instruments = _instruments(meters)
        self._waiting: list[tuple[str, Message]] = []
        self._open: list[Span] = []
        self._attempts: list[tuple[str, Message, ProcessScope]] = []
        self._contexts: list[otel_context.Context] = []
        self._depth = 0

    def run(self, steps: int) -> None:
        """Do so many things, one after the other, with what they bring about."""
        whole: tuple[tuple[Callable[[], object], int], ...] = (
            (self._publish, 4),
            (self._process, 8),
            (self._process_foreign, 4),
            (self._retry, 2),
            (self._dead_letter, 1),
            (self._batch, 1),
            (self._crash, 1),
            (self._lifecycle, 2),
            (self._do_something, 5),
            (self._wait, 2),
        )
        for _ in range(steps):
            try:
                self._one_of(whole)()
            except PluginBrokeError:
                continue
        for span in self._open:
            span.end()

    def _one_of(self, choices: tuple[tuple[Callable[[], object], int], ...]) -> Callable[[], object]:
        (chosen,) = self._random.choices(
            [one for one, _ in choices], weights=[weight for _, weight in choices]
        )
        self.did.append("  " * self._depth + chosen.__name__.strip("_"))
        return chosen

    def _work(self) -> None:
        """What happens within a block."""
        if self._depth < _DEEPEST:
            self._depth += 1
            try:
                for _ in range(self._random.randrange(4)):
                    self._do_something()
            finally:
                self._depth -= 1

    def _do_something(self) -> None:
        self._one_of(
            (
                (self._create_span, 4),
                (self._library_span, 4),
                (self._publish, 3),
                (self._touch_current_span, 6),
                (self._record, 5),
                (self._library_measures, 2),
                (self._log, 3),
                (self._raise, 1),
                (self._with_baggage, 1),
                (self._in_a_thread, 1),
                (self._in_tasks, 1),
                (self._remember_the_context, 1),
                (self._in_a_remembered_context, 1),
                (self._under_a_foreign_span, 1),
                (self._open_span, 1),
                (self._close_span, 1),
                (self._change_status, 1),
                (self._process, 1),
            )
        )()

    # What a host does.

    def _publish(self) -> None:
        made_from = self._message() if self._random.random() < 0.5 else None
        message_id = self._id()
        root = made_from.root_id if made_from else message_id
        parents = (made_from.id,) if made_from else ()
        topic = self._random.choice(TOPICS)
        with self._plugin.messages.publish(topic, message_id, root, parents) as scope:
            carrier = scope.carrier()
            self.carriers.append(carrier)
            self._waiting.append((topic, Message(message_id, root, parents, self._clock.time_ns(), carrier)))
            if self._random.random() < 0.1:
                scope.fail(self._failure())
            if self._random.random() < 0.2:
                self._work()

    def _process(self) -> None:
        if not self._waiting:
            return
        at = self._random.randrange(len(self._waiting))
        # Taken or left: the same message may have many subscribers.
        topic, message = self._waiting.pop(at) if self._random.random() < 0.6 else self._waiting[at]
        self._attempt(topic, message)

    def _process_foreign(self) -> None:
        self._attempt(self._random.choice(TOPICS), self._message())

    def _retry(self) -> None:
        if self._attempts:
            topic, message, before = self._attempts[-1]
            self._attempt(topic, message, attempt=self._random.randint(2, 20), previous=before)

    def _attempt(self, topic: str, message: Message, **how: Any) -> None:
        if self._random.random() < 0.1:
            how["replay"] = True
        with self._plugin.messages.process(topic, message, **how) as scope:
            self._attempts.append((topic, message, scope))
            self._clock.advance(self._random.choice((0, 0.01, 3, 700)))
            self._work()
            if self._random.random() < 0.15:
                scope.fail(self._failure(), self._random.choice((None, "timeout")))
            if self._random.random() < 0.5:
                scope.outcome(self._random.choice(("processed", "filtered", "retry")))

    def _dead_letter(self) -> None:
        if self._attempts:
            _, message, failed = self._random.choice(self._attempts)
            with self._plugin.messages.dead_letter("dead", message, self._text(), failed) as letter:
                self.carriers.append(letter.carrier())

    def _batch(self) -> None:
        messages = [self._message() for _ in range(self._random.randrange(4))]
        messages += [message for _, message in self._waiting[: self._random.randrange(4)]]
        with self._plugin.messages.batch(self._random.choice(TOPICS), messages):
            self._work()

    def _crash(self) -> None:
        self._plugin.messages.crash("orders.raw", self._message(), self._random.randint(-15, 1))

    def _lifecycle(self) -> None:
        with self._plugin.lifecycle(
            self._random.choice(("init", "shutdown", "health_check", "reload"))
        ) as moment:
            self._clock.advance(5)
            self._work()
            if self._random.random() < 0.2:
                moment.fail(self._text())

    def _wait(self) -> None:
        self._clock.advance(self._random.choice((0.5, 40, 3_601_000)))

    def _change_status(self) -> None:
        self._plugin.status = self._random.choice(("running", "degraded"))

    # What a plugin and its libraries do. What goes straight to a span or instrument of OpenTelemetry's API is
    # tame: the SDK raises over values whose text cannot be had.

    def _create_span(self) -> None:
        with self._plugin.create_span(self._text(), self._attributes(tame=True)):
            self._work()

    def _library_span(self) -> None:
        library = self._random.choice(self._libraries)
        with library.start_as_current_span(
            self._text(),
            self._random.choice((None, None, None, otel_context.Context())),
            self._random.choice(list(SpanKind)),
            self._attributes(tame=True),
            [
                Link(self._span_context(), self._attributes(tame=True))
                for _ in range(self._random.randrange(3))
            ],
            record_exception=self._random.random() < 0.8,
            set_status_on_exception=self._random.random() < 0.8,
        ):
            self._work()

    def _open_span(self) -> None:
        """Begin one that ends somewhere else, maybe in another message, maybe never within a block."""
        self._open.append(self._random.choice(self._libraries).start_span(self._text()))

    def _close_span(self) -> None:
        if self._open:
            span = self._open.pop(self._random.randrange(len(self._open)))
            with trace.use_span(span, end_on_exit=True):
                self._touch(span)
            self._touch(span)  # too late, and without effect

    def _touch_current_span(self) -> None:
        self._touch(trace.get_current_span())

    def _touch(self, span: Span) -> None:
        choice = self._random.randrange(8)
        if choice <= 1:
            span.set_attribute(self._random.choice(KEYS), self._value(tame=True))
        elif choice == 2:
            span.set_attributes(self._attributes(tame=True) or {})
        elif choice == 3:
            span.add_event(self._text(), self._attributes(tame=True))
        elif choice == 4:
            span.add_link(self._span_context(), self._attributes(tame=True))
        elif choice == 5:
            span.set_status(
                Status(self._random.choice(list(StatusCode)), self._text())
                if self._random.random() < 0.5
                else self._random.choice(list(StatusCode))
            )
        elif choice == 6:
            span.record_exception(PluginBrokeError(self._text()), self._attributes(tame=True))
        elif self._random.random() < 0.5:
            span.update_name(self._text())
        else:
            for number in range(self._random.choice((20, 40, 150))):
                span.set_attribute(f"key {number}", number)

    def _record(self) -> None:
        plugin, kind = self._plugin, self._random.choice(("counter", "gauge", "histogram"))
        name = self._random.choice(("things", kind, kind, "plugin.lifecycle.events", "no name"))
        number = self._random.choice((1, 0, 2.5, 7, 1e9, 2**70, -1, math.nan, math.inf, True, "3", None))
        getattr(plugin, f"record_{kind}")(name, number, self._attributes())

    def _library_measures(self) -> None:
        amount = self._random.choice((1, 0, 2.5, 1e-9, 123_456))
        self._random.choice(self._instruments)(amount, self._attributes(tame=True))

    def _log(self) -> None:
        level = self._random.choice((logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL, 25))
        extra = {key: self._value() for key in self._random.sample(KEYS[:4], self._random.randrange(3))}
        error = PluginBrokeError(self._text()) if self._random.random() < 0.2 else None
        body = self._random.choice(("plain", "100 %", "ü\x00\n", "x" * 5_000))
        self._plugin.logger().log(level, body, extra=extra, exc_info=error)

    def _raise(self) -> None:
        if self._depth:
            raise PluginBrokeError(self._text())

    def _with_baggage(self) -> None:
        token = otel_context.attach(baggage.set_baggage("user", "bob"))
        try:
            self._work()
        finally:
            otel_context.detach(token)

    def _in_a_thread(self) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(copy_context().run, self._work).result()

    def _in_tasks(self) -> None:
        async def task() -> None:
            await asyncio.sleep(0)
            self._work()

        async def tasks() -> None:
            await asyncio.create_task(task())
            await asyncio.to_thread(self._work)
            await asyncio.gather(task(), task())

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(tasks())

    def _remember_the_context(self) -> None:
        self._contexts.append(otel_context.get_current())

    def _in_a_remembered_context(self) -> None:
        """Maybe that of a message that was done with long ago."""
        if self._contexts:
            token = otel_context.attach(self._random.choice(self._contexts))
            try:
                self._work()
            finally:
                otel_context.detach(token)

    def _under_a_foreign_span(self) -> None:
        with trace.use_span(NonRecordingSpan(self._span_context())):
            self._work()

    # What they do it with.

    @property
    def _plugin(self) -> PluginTelemetry:
        return self._random.choice(self._plugins)

    def _message(self) -> Message:
        root = self._id() if self._random.random() < 0.3 else ""
        parents = tuple(self._id() for _ in range(self._random.randrange(3)))
        age_s = self._random.choice((0.0, 0.0, 0.2, -5.0, 4_000.0))
        born = self._clock.time_ns() - int(age_s * 1e9)
        return Message(self._id(), root, parents, born, self._carrier())

    def _carrier(self) -> dict[str, str]:
        choice = self._random.randrange(8)
        flags = self._random.choice(("01", "01", "03", "00", "02", "ff"))
        usual = {"traceparent": f"00-{_TRACE}-{_SPAN}-{flags}"}
        if choice <= 3:
            return usual
        if choice == 4:
            return {
                **usual,
                "tracestate": "vendor=a:1,other=b",
                "baggage": "user=alice%20b;tier=gold,region=eu",
            }
        if choice == 5:
            return {**usual, self._random.choice(("tracestate", "baggage", "x-other")): self._text()}
        if choice == 6:
            return {"traceparent": self._random.choice(("", "00-zz", f"ff-{_TRACE}-{_SPAN}-01", "0" * 55))}
        return {}

    def _span_context(self) -> SpanContext:
        return SpanContext(
            self._random.choice((0, 1, 2**128 - 1)),
            self._random.choice((0, 1, 2**64 - 1)),
            self._random.random() < 0.5,
            TraceFlags(self._random.randrange(4)),
            TraceState([("vendor", "a:1")]) if self._random.random() < 0.3 else None,
        )

    def _id(self) -> str:
        return self._random.choice((f"m{self._random.randrange(1000)}", "ü" * 60, "x" * 130))

    def _text(self) -> str:
        # No lone surrogates here: the SDK loses the whole request over one in a name.
        return self._random.choice(("look", "", "ü 𝄞", "x" * 2_000, "a\x00b"))

    def _failure(self) -> Exception | str:
        return PluginBrokeError(self._text()) if self._random.random() < 0.5 else self._text()

    def _attributes(self, *, tame: bool = False) -> dict[str, Any] | None:
        count = self._random.choice((0, 1, 1, 2, 3, 12))
        return {self._random.choice(KEYS): self._value(tame=tame) for _ in range(count)} or None

    def _value(self, depth: int = 0, *, tame: bool = False) -> Any:
        if depth < 3 and self._random.random() < 0.25:
            parts = [self._value(depth + 1, tame=tame) for _ in range(self._random.randrange(4))]
            keys: list[Any] = ["a", "b", "", 3, None]
            return self._random.choice(
                (parts, tuple(parts), {self._random.choice(keys): part for part in parts}, range(3))
            )
        return self._random.choice(
            (
                *("text", "", "x" * 3_000, "ü", "\ud800", Word("word"), b"", b"\xff\x00"),
                *(0, 1, -1, 2**63 - 1, -(2**63), 2**63, 10**30, True, False, Colour.RED),
                *(0.0, -0.0, 1.5, math.nan, math.inf, -math.inf, 1e308, None),
                *(Decimal("1.5"), datetime(2020, 1, 1, tzinfo=UTC), {1, 2} - {2}),
                *(float, len, 2 + 3j, "tame" if tame else Unprintable()),
            )
        )


def _instruments(meters: MeterProvider) -> list[Callable[[Any, Any], object]]:
    meter = meters.get_meter("a.library", "3.1", "https://example.org/1")
    return [
        meter.create_counter("requests", "{request}", "How many.").add,
        meter.create_up_down_counter("open").add,
        meter.create_histogram("duration", "s", explicit_bucket_boundaries_advisory=[0.1, 1, 10]).record,
        meter.create_histogram("size", "By").record,
        meter.create_gauge("level").set,
    ]


@contextmanager
def quiet(names: tuple[str, ...] = ("opentelemetry", "common_telemetry")) -> Iterator[None]:
    """Most of this traffic is wrong in some way, and each engine says so in its own words."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
