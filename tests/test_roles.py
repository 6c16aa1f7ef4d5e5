import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import pytest

from echo_core import (
    BaseMessage,
    Filter,
    Invalid,
    Plugin,
    PluginContext,
    PluginError,
    ProcessingStatus,
    Router,
    Sink,
    Source,
    Transformer,
    Validator,
)

P = ParamSpec("P")
R = TypeVar("R")

ROLES = (Validator, Filter, Transformer, Router, Source, Sink)
DONE, DROPPED = ProcessingStatus.ACKNOWLEDGED, ProcessingStatus.FILTERED


class RecordingContext:
    """As much of a `PluginContext` as the roles use: it keeps what is published, and runs real threads."""

    def __init__(self, *publications: str, refused: str = "") -> None:
        self.publications = publications
        self.published: list[tuple[str, Any]] = []
        self._refused = refused

    async def publish(self, topic: str, data: Any) -> BaseMessage:
        if topic == self._refused:
            raise PluginError("refused")
        self.published.append((topic, data))
        return BaseMessage(source="test", data=data)

    async def run_blocking(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.to_thread(function, *args, **kwargs)


Given = tuple[ProcessingStatus, list[tuple[str, Any]]]


def handled(plugin: Plugin, data: Any = "data", *publications: str) -> Given:
    """What the plugin answers to a message with this data, and what it published meanwhile."""
    context = RecordingContext(*publications)

    async def handle() -> ProcessingStatus:
        await plugin.init(cast(PluginContext, context))
        return await plugin.process_message("some.topic", BaseMessage(source="test", data=data))

    return asyncio.run(handle()), context.published


def produced(source: Source, *publications: str) -> list[tuple[str, Any]]:
    """What the source published until it was exhausted."""
    context = RecordingContext(*publications)

    async def run() -> None:
        await source.init(cast(PluginContext, context))
        await source.run()

    asyncio.run(run())
    return context.published


class Positive(Validator):
    async def validate(self, message: BaseMessage) -> None:
        if message.data <= 0:
            raise Invalid("not positive")


class Even(Filter):
    async def keep(self, message: BaseMessage) -> bool:
        return bool(message.data % 2 == 0)


class Told(Transformer):
    """Makes whatever the test tells it to make."""

    def __init__(self, output: Any) -> None:
        self.output = output

    async def transform(self, message: BaseMessage) -> Any:
        return self.output


class Routes(Router):
    def __init__(self, routes: Any) -> None:
        self.routes = routes

    async def route(self, message: BaseMessage) -> Any:
        return self.routes


class Keeps(Sink):
    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def write(self, message: BaseMessage) -> None:
        self.kept.append(message.data)


class Yields(Source):
    def __init__(self, *outputs: Any) -> None:
        self.outputs = outputs
        self.closed = False

    async def produce(self) -> AsyncIterator[Any]:
        try:
            for output in self.outputs:
                yield output
        finally:
            self.closed = True


def test_a_validator_passes_a_good_message_on_unchanged() -> None:
    assert handled(Positive(), 3, "good", "other") == (DONE, [("good", 3)])


def test_a_validator_fails_a_bad_message_at_once_with_the_reason() -> None:
    assert handled(Positive(), -3, "good") == (ProcessingStatus.FAILED("not positive"), [])


def test_a_validators_whole_verdict_is_the_reason() -> None:
    class Strict(Validator):
        async def validate(self, message: BaseMessage) -> None:
            raise Invalid("no end time", where="words[3]", why="it is missing")

    assert handled(Strict(), 1, "good")[0].reason == "no end time; at words[3]; because it is missing"


def test_any_other_exception_of_a_validator_is_the_hosts_to_judge() -> None:
    with pytest.raises(TypeError):
        handled(Positive(), "three", "good")


def test_a_filter_passes_on_what_it_keeps_and_ends_the_rest() -> None:
    assert handled(Even(), 4, "even") == (DONE, [("even", 4)])
    assert handled(Even(), 3, "even") == (DROPPED, [])


@pytest.mark.parametrize("passes", [Positive, Even])
def test_data_that_looks_like_a_destination_is_passed_on_as_data(passes: type[Plugin]) -> None:
    class PassesAll(passes):  # type: ignore[valid-type, misc]
        async def validate(self, message: BaseMessage) -> None:
            return

        async def keep(self, message: BaseMessage) -> bool:
            return True

    assert handled(PassesAll(), ("other.topic", 1), "first") == (DONE, [("first", ("other.topic", 1))])


@pytest.mark.parametrize(
    "output", ["text", {}, [], 0, False, "", ("a", "b", "c"), ("a",), (1, "b"), ["a", "b"]]
)
def test_what_a_transformer_makes_goes_to_its_first_publication_also_if_it_is_empty(output: Any) -> None:
    assert handled(Told(output), 1, "first", "second") == (DONE, [("first", output)])


def test_a_transformer_may_say_where_its_output_goes() -> None:
    assert handled(Told(("second", {"a": 1})), 1, "first", "second") == (DONE, [("second", {"a": 1})])
    assert handled(Told(("anywhere", None))) == (DONE, [("anywhere", None)])


def test_a_transformer_that_makes_none_drops_the_message() -> None:
    assert handled(Told(None), 1, "first") == (DROPPED, [])


@pytest.mark.parametrize(
    ("routes", "topics"),
    [("one", ["one"]), (["one", "two"], ["one", "two"]), (("two",), ["two"]), ({"one": 1}, ["one"])],
)
def test_a_router_publishes_the_data_to_every_topic_it_names(routes: Any, topics: list[str]) -> None:
    assert handled(Routes(routes), "data", "unused") == (DONE, [(topic, "data") for topic in topics])


@pytest.mark.parametrize("routes", [[], (), iter(())])
def test_a_router_that_names_no_topic_ends_the_message(routes: Any) -> None:
    assert handled(Routes(routes)) == (DROPPED, [])


def test_a_sink_writes_and_publishes_nothing() -> None:
    sink = Keeps()
    assert handled(sink, "data") == (DONE, [])
    assert sink.kept == ["data"]


def test_a_source_publishes_all_that_it_yields_in_order_and_then_ends() -> None:
    source = Yields("one", ("second", "two"), None)
    assert produced(source, "first", "second") == [("first", "one"), ("second", "two"), ("first", None)]


def test_a_source_is_fed_nothing() -> None:
    status, published = handled(Yields())
    assert status == ProcessingStatus.FAILED("a source handles no messages")
    assert published == []


def test_a_source_asks_for_the_next_only_after_the_last_was_accepted() -> None:
    events: list[str] = []

    class Counts(Source):
        async def produce(self) -> AsyncIterator[int]:
            for number in range(2):
                events.append(f"produced {number}")
                yield number

    class SlowContext(RecordingContext):
        async def publish(self, topic: str, data: Any) -> BaseMessage:
            await asyncio.sleep(0)
            events.append(f"accepted {data}")
            return await super().publish(topic, data)

    async def run() -> None:
        source = Counts()
        await source.init(cast(PluginContext, SlowContext("numbers")))
        await source.run()

    asyncio.run(run())
    assert events == ["produced 0", "accepted 0", "produced 1", "accepted 1"]


def test_a_source_whose_publication_is_refused_is_closed_before_run_ends() -> None:
    source = Yields(1, 2)

    async def run() -> None:
        await source.init(cast(PluginContext, RecordingContext("first", refused="first")))
        with pytest.raises(PluginError, match="refused"):
            await source.run()
        assert source.closed

    asyncio.run(run())


def test_a_cancelled_source_is_closed_before_run_ends() -> None:
    class Stuck(RecordingContext):
        async def publish(self, topic: str, data: Any) -> BaseMessage:
            await asyncio.Event().wait()
            raise AssertionError

    source = Yields(1)

    async def run() -> None:
        await source.init(cast(PluginContext, Stuck("first")))
        running = asyncio.ensure_future(source.run())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert source.closed

    asyncio.run(run())


@pytest.mark.parametrize(
    "plugin", [Positive(), Even(), Told("made")], ids=lambda plugin: type(plugin).__name__
)
@pytest.mark.parametrize("publications", [(), ("captions.*",), ("#", "good")])
def test_a_role_with_no_topic_to_publish_to_says_what_to_write_in_the_manifest(
    plugin: Plugin, publications: tuple[str, ...]
) -> None:
    plugin.name = "caption_transformer"
    with pytest.raises(PluginError, match="caption_transformer has made something") as refused:
        handled(plugin, 2, *publications)
    assert '"publications" of its manifest.json' in refused.value.fix
    assert all(pattern in refused.value.what for pattern in publications[:1])


def test_a_source_with_no_topic_to_publish_to_says_so_and_is_closed() -> None:
    source = Yields("made")
    with pytest.raises(PluginError, match="nowhere to publish"):
        produced(source)
    assert source.closed


class BlockingPositive(Validator, blocking=True):
    def validate(self, message: BaseMessage) -> None:  # type: ignore[override]
        assert in_a_thread()
        if message.data <= 0:
            raise Invalid("not positive")


class BlockingEven(Filter, blocking=True):
    def keep(self, message: BaseMessage) -> bool:  # type: ignore[override]
        assert in_a_thread()
        return bool(message.data % 2 == 0)


class BlockingDouble(Transformer, blocking=True):
    def transform(self, message: BaseMessage) -> int:  # type: ignore[override]
        assert in_a_thread()
        return int(message.data * 2)


class BlockingRouter(Router, blocking=True):
    def route(self, message: BaseMessage) -> str:  # type: ignore[override]
        assert in_a_thread()
        return f"number.{message.data}"


class BlockingSink(Sink, blocking=True):
    def write(self, message: BaseMessage) -> None:  # type: ignore[override]
        assert in_a_thread()


class BlockingGenerator(Source, blocking=True):
    def produce(self) -> Iterator[Any]:  # type: ignore[override]
        for output in ("one", ("second", "two")):
            assert in_a_thread()
            yield output


class BlockingList(Source, blocking=True):
    def produce(self) -> list[Any]:  # type: ignore[override]
        assert in_a_thread()
        return ["one", ("second", "two")]


def in_a_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


@pytest.mark.parametrize(
    ("plugin", "published"),
    [
        (BlockingPositive(), [("first", 2)]),
        (BlockingEven(), [("first", 2)]),
        (BlockingDouble(), [("first", 4)]),
        (BlockingRouter(), [("number.2", 2)]),
        (BlockingSink(), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_blocking_role_is_called_in_a_thread(plugin: Plugin, published: list[tuple[str, Any]]) -> None:
    assert handled(plugin, 2, "first") == (DONE, published)


def test_a_blocking_validators_verdict_comes_back_from_its_thread() -> None:
    assert handled(BlockingPositive(), -1, "first") == (ProcessingStatus.FAILED("not positive"), [])


@pytest.mark.parametrize("source", [BlockingGenerator(), BlockingList()], ids=lambda one: type(one).__name__)
def test_a_blocking_source_is_iterated_in_a_thread_and_published_from_the_loop(source: Source) -> None:
    assert produced(source, "first", "second") == [("first", "one"), ("second", "two")]


def plain(self: Plugin, message: BaseMessage) -> None:
    """A plain def, whatever the role."""


async def coroutine(self: Plugin, message: BaseMessage) -> None:
    """A coroutine, whatever the role."""


def plain_generator(self: Plugin) -> Iterator[int]:
    yield 1


async def async_generator(self: Plugin) -> AsyncIterator[int]:
    yield 1


def methods(role: type[Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A plain and an asynchronous way to write the role's method."""
    return (plain_generator, async_generator) if role is Source else (plain, coroutine)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("blocking", [False, True])
def test_a_method_of_the_wrong_kind_is_refused_when_the_class_is_made_with_its_place(
    role: type[Any], blocking: bool
) -> None:
    right, wrong = methods(role) if blocking else reversed(methods(role))
    assert type("Mine", (role,), {role.method: right}, blocking=blocking)
    with pytest.raises(PluginError, match=f"Mine.{role.method} is a") as refused:
        type("Mine", (role,), {role.method: wrong}, blocking=blocking)
    line = inspect.getsourcelines(wrong)[1]
    assert refused.value.where == f"{__file__}:{line}"
    assert ("plain def" if blocking else f"async def {role.method}") in refused.value.fix


def test_a_class_that_changes_its_mind_about_blocking_is_held_to_the_method_it_inherits() -> None:
    with pytest.raises(PluginError, match="is a coroutine, but Child is declared blocking"):

        class Child(Keeps, blocking=True):
            pass


def test_a_method_from_a_mixin_is_held_to_the_rule_too() -> None:
    class Mixin:
        def write(self, message: BaseMessage) -> None:
            """Plain."""

    with pytest.raises(PluginError, match=r"Mixed\.write is a plain def"):

        class Mixed(Mixin, Sink):  # type: ignore[misc]
            pass


def test_a_decorated_coroutine_is_still_a_coroutine() -> None:
    def counted(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
            return function(*args, **kwargs)

        return wrapper

    class Counted(Keeps):
        @counted
        async def write(self, message: BaseMessage) -> None:
            self.kept.append("counted")

    sink = Counted()
    assert handled(sink) == (DONE, [])
    assert sink.kept == ["counted"]


def test_a_source_that_returns_instead_of_yielding_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(PluginError, match=r"Returns\.produce is a coroutine that yields nothing") as refused:

        class Returns(Source):
            async def produce(self) -> list[int]:  # type: ignore[override]
                return [1, 2]

    assert refused.value.where.startswith(f"{__file__}:")
    assert "yield" in refused.value.fix


@pytest.mark.parametrize("role", ROLES)
def test_a_role_whose_one_method_is_not_written_cannot_be_made(role: type[Any]) -> None:
    unfinished = type("Unfinished", (role,), {})
    with pytest.raises(TypeError, match=role.method):
        unfinished()
