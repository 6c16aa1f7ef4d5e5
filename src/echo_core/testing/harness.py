"""A host for one plugin, inside a test: real context, real checks, nothing else running."""

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from echo_core.errors import NotFound, PluginError, TopicError
from echo_core.manifest import FILE_NAME, Manifest, read
from echo_core.message import BaseMessage
from echo_core.plugin import Answer, Outcome, Plugin, ProcessingStatus
from echo_core.roles import Source
from echo_core.runtime.config import effective_config
from echo_core.runtime.context import BatchInHand, HostContext, message_in_hand
from echo_core.runtime.settings import Settings
from echo_core.runtime.source_context import StatefulContext
from echo_core.runtime.source_state import SourceState
from echo_core.testing.telemetry import ReportedTelemetry
from echo_core.testing.transport import Published, RecordingTransport
from echo_core.topics import TopicPattern, TopicSet

if TYPE_CHECKING:
    from common_telemetry.testing import ReceivedLog, ReceivedPoint, ReceivedSpan


_GENERATION: Final = "019abd00-0000-7000-8000-000000000000"
"""Of every source under test, so that a message has the same id whenever it comes from the same state."""


class PluginHarness:
    """Runs one plugin as the host would, and shows what came out of it.

    async with PluginHarness(create_plugin(), config={"field": "title"}) as harness:
        status = await harness.handle({"title": "hello"})
        assert harness.data == [{"title": "HELLO"}]

    Entering calls `init`, leaving calls `shutdown`. What it reports stays here: `spans`, `metrics`, `logs`.
    What the host would refuse is refused here, with the same error: a topic outside `publications`, a
    configuration that its `config_schema` does not admit, data that cannot be sent. A plugin that changes
    `message.data` fails with an AssertionError.
    """

    def __init__(
        self,
        plugin: Plugin,
        *,
        manifest: Manifest | Path | None = None,
        config: Mapping[str, Any] | None = None,
        topic: str | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Nothing runs yet.

        `manifest` is one, or the path of one; left out, it is the nearest above the plugin's own source.
        `config` goes over the manifest's. `topic` is where messages come from when `handle` is not told;
        left out, it is one that the first subscription means. `state` is what a source finds in
        `context.state`: where an earlier run of it came to.
        """
        self.plugin = plugin
        self.manifest = _manifest(plugin, manifest)
        self.transport = RecordingTransport(self._note_state)
        self._telemetry = ReportedTelemetry(self.manifest.name, self.manifest.version)
        self.states: list[dict[str, Any]] = []
        """What a source's state said with each message that it published, if it used its state."""
        self.context = self._kind_of_context(state)(
            self.manifest,
            effective_config(self.manifest, Settings(plugins={self.manifest.name: dict(config or {})}), {}),
            self.transport,
            self._telemetry.plugin,
            telemetry=self._telemetry.context,
        )
        self._topic = topic
        self._subscribed = TopicSet(self.manifest.subscriptions)
        plugin.name = plugin.name or self.manifest.name

    def _kind_of_context(self, state: Mapping[str, Any] | None) -> Callable[..., HostContext]:
        if not isinstance(self.plugin, Source):
            return HostContext
        kept = SourceState(self.manifest.name, _GENERATION, msgspec.msgpack.encode(dict(state or {})))
        return functools.partial(StatefulContext, state=kept)

    def _note_state(self) -> None:
        position = self.context.position()
        if position is not None:
            self.states.append(msgspec.msgpack.decode(position))

    async def __aenter__(self) -> Self:
        await self.transport.open()
        try:
            await self.plugin.init(self.context)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.plugin.shutdown()
        finally:
            await self.close()

    async def close(self) -> None:
        """Close everything but the plugin; what it published and reported can still be read."""
        await self.transport.close()
        self._telemetry.close()

    @property
    def published(self) -> list[Published]:
        """Everything that was published, in order: `(topic, message)` each."""
        return self.transport.published

    @property
    def data(self) -> list[Any]:
        """The data of everything that was published, in order."""
        return [publication.message.data for publication in self.published]

    def spans(self, name: str | None = None) -> "list[ReceivedSpan]":
        """The spans that have ended, in that order, or those of one name; the host's own are among them."""
        return self._telemetry.spans(name)

    def metrics(self, name: str | None = None) -> "list[ReceivedPoint]":
        """The measurements so far, a point for each set of attributes, or those of one metric."""
        return self._telemetry.metrics(name)

    def logs(self) -> "list[ReceivedLog]":
        """What was logged so far, with the message and the trace that it belongs to."""
        return self._telemetry.logs()

    async def handle(self, data: Any, topic: str | None = None) -> ProcessingStatus:
        """Hand over a message (or make one of `data`) and return how it went; exceptions come through.

        A status of FORWARD is carried out, as the host does. Raises `TopicError` if the plugin would
        never be given a message of this topic.
        """
        message = data if isinstance(data, BaseMessage) else _message(data)
        topic = self._checked_topic(topic)
        with self._in_hand(topic, message), self._unchanged(message):
            status = await self._process(topic, message)
            if status.outcome is Outcome.FORWARD:
                await self.context.publish(status.topic, status.message)
        return status

    async def handle_batch(self, data: Sequence[Any], topic: str | None = None) -> list[Answer]:
        """Hand over a batch, as the host does where `delivery.batch_size` is above 1; how each went.

        What `handle` does for one message holds for each. An exception of the whole batch comes through.
        """
        messages = [item if isinstance(item, BaseMessage) else _message(item) for item in data]
        topic = self._checked_topic(topic)
        before = copy.deepcopy([message.data for message in messages])
        token = message_in_hand.set(BatchInHand(messages))
        try:
            with self._telemetry.plugin.messages.batch(topic, messages):
                answers = await self._call(self.plugin.process_batch, [topic] * len(messages), messages)
        finally:
            message_in_hand.reset(token)
            for message, was in zip(messages, before, strict=True):
                self._check_unchanged(message, was)
        if not isinstance(answers, list | tuple) or len(answers) != len(messages):
            raise PluginError(
                f"process_batch of {self.manifest.name} returned {answers!r} for {len(messages)} messages",
                fix="return a list with a ProcessingStatus, or an exception, for each message",
            )
        for answer, message in zip(answers, messages, strict=True):
            if isinstance(answer, ProcessingStatus) and answer.outcome is Outcome.FORWARD:
                with self._made_from(message):
                    await self.context.publish(answer.topic, answer.message)
        return list(answers)

    @contextmanager
    def _in_hand(self, topic: str, message: BaseMessage) -> Iterator[None]:
        """While the block runs, what is published is made from `message`, what is reported is about it."""
        with self._made_from(message), self._telemetry.plugin.messages.process(topic, message):
            yield

    @contextmanager
    def _made_from(self, message: BaseMessage) -> Iterator[None]:
        """While the block runs, what is published is made from `message`."""
        token = message_in_hand.set(message)
        try:
            yield
        finally:
            message_in_hand.reset(token)

    @contextmanager
    def _unchanged(self, message: BaseMessage) -> Iterator[None]:
        """Fail if the block, whether it ends well or not, has changed the message's data."""
        before = copy.deepcopy(message.data)
        try:
            yield
        finally:
            self._check_unchanged(message, before)

    def _check_unchanged(self, message: BaseMessage, before: Any) -> None:
        if message.data != before:
            raise AssertionError(
                f"{self.manifest.name} changed message.data from {before!r} to {message.data!r}; "
                "fix: make new data, like {**message.data, ...}"
            )

    async def _process(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        status = await self._call(self.plugin.process_message, topic, message)
        if not isinstance(status, ProcessingStatus):
            raise PluginError(
                f"process_message of {self.manifest.name} returned {status!r}",
                why="only a ProcessingStatus says how a message went",
                fix="return ProcessingStatus.ACKNOWLEDGED",
            )
        return status

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Call a method of the plugin where the host would: a plain `def` in a thread."""
        if inspect.iscoroutinefunction(method):
            return await method(*arguments)
        return await self.context.run_blocking(method, *arguments)

    def _checked_topic(self, topic: str | None) -> str:
        """The topic that messages come from."""
        topic = topic or self._topic or self._any_topic()
        if topic not in self._subscribed:
            raise TopicError(
                f"{self.manifest.name} is never given messages of {topic!r}",
                why=f"its subscriptions are {', '.join(self.manifest.subscriptions) or 'none'}",
                fix="name a topic that one of them means",
            )
        return topic

    def _any_topic(self) -> str:
        """A topic that the first subscription means: its wildcards read as the word "test"."""
        if not self.manifest.subscriptions:
            raise TopicError(
                f"{self.manifest.name} has no subscriptions, and so handles no messages",
                fix="call run_source() if it is a source, or list a topic in its manifest.json",
            )
        words = TopicPattern(self.manifest.subscriptions[0]).words
        return ".".join("test" if word in ("*", "#") else word for word in words)

    async def run_source(self, limit: int | None = None) -> list[Published]:
        """Let a source run and return what it published.

        It ends when the source is exhausted, or is cancelled, as at the host's stop, right after it
        published the `limit`th message. Exceptions of the source come through.
        """
        if not isinstance(self.plugin, Source):
            raise PluginError(
                f"{self.manifest.name} is no source",
                why=f"it is a {type(self.plugin).__name__}, not a subclass of echo_core.Source",
                fix="use handle(data)",
            )
        first = len(self.published)
        if limit is None:
            await self.plugin.run()
            return self.published[first:]
        if limit < 1:
            raise ValueError(f"limit is {limit}; a source can only be stopped after a message")
        running = asyncio.create_task(self.plugin.run())
        self.transport.when_published(first + limit, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            if len(self.published) < first + limit:  # then it is the test itself that is cancelled
                raise
        return self.published[first:]


def _message(data: Any) -> BaseMessage:
    return BaseMessage(source="test", data=data)


def _manifest(plugin: Plugin, given: Manifest | Path | None) -> Manifest:
    if isinstance(given, Manifest):
        return given
    path = given or find_manifest(Path(inspect.getfile(type(plugin))))
    return read(path)


def find_manifest(start: Path) -> Path:
    """The nearest `manifest.json` in the folders above the file `start`; raises `NotFound`."""
    for folder in start.resolve().parents:
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
    raise NotFound(
        f"no {FILE_NAME} beside or above {start}",
        fix='pass one: PluginHarness(plugin, manifest=Path("manifest.json"))',
    )
