"""The six roles: a thin `Plugin` each, with one method to write.

What a role makes goes to the first of its `publications`, unless it says where: a result that is a
tuple `(topic, data)` goes to that topic. The method is a coroutine (`async def`), as a rule; a class
declared `blocking=True` writes a plain `def`, which runs in a thread.
"""

import inspect
import itertools
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, TypeAlias, cast

from echo_core.errors import Invalid, PluginError
from echo_core.message import BaseMessage
from echo_core.plugin import Answer, Plugin, ProcessingStatus
from echo_core.settlement import Ending

Output: TypeAlias = Any
"""Data for the plugin's first publication, or `(topic, data)`; `Many` of them where it is several."""


class Many(tuple[Any, ...]):
    """Several outputs at once: `Many([data, data])`, or `(topic, Many([data, data]))`.

    Each becomes a message, in this order. A source that yields many at a time has less to pay for each.
    """

    __slots__ = ()


class Role(Plugin):
    """What the six have in common: how the one method is called, and where its result goes."""

    method: ClassVar[str]
    """Name of the one method that the author writes."""
    batch_method: ClassVar[str] = ""
    """Name of the one that the author may write for many messages at once."""
    # Two underscores, so that no author's attribute is the same.
    __publications: Sequence[str] | None = None
    __first = ""

    def __init_subclass__(cls, *, blocking: bool | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(blocking=blocking, **kwargs)
        written = getattr(cls, getattr(cls, "method", ""), None)
        if written is not None and not getattr(written, "__isabstractmethod__", False):
            cls._check_kind(cls.method, written)
        if cls.batch_method in vars(cls):
            cls._check_kind(cls.batch_method, vars(cls)[cls.batch_method])

    @classmethod
    def _check_kind(cls, name: str, written: Callable[..., Any]) -> None:
        """Raise `PluginError` if a blocking class has a coroutine, or another one a plain def."""
        is_async = _is_async(written)
        if is_async == cls.blocking:
            raise PluginError(
                f"{cls.__name__}.{name} is a {'coroutine' if is_async else 'plain def'}, "
                f"but {cls.__name__} is {'' if cls.blocking else 'not '}declared blocking",
                where=_place(written),
                fix="write a plain def" if is_async else f"write `async def {name}`, or `blocking=True`",
            )

    def _in_thread(self, method: Callable[[BaseMessage], Any], message: BaseMessage) -> Awaitable[Any]:
        return self.context.run_blocking(method, message)

    # No coroutine: it hands on another's, which saves one for each message.

    def _publish(self, output: Output) -> Awaitable[object]:
        if isinstance(output, tuple):
            topic, data = self._destination(output)
            if isinstance(data, Many):
                return self.context.publish_batch(topic, data)
            return self.context.publish(topic, data)
        return self.context.publish(self._first_publication(), output)

    def _destination(self, output: Output) -> tuple[str, Any]:
        """Where an output goes, and the data without the word about it."""
        is_addressed = (
            isinstance(output, tuple)
            and not isinstance(output, Many)
            and len(output) == 2
            and isinstance(output[0], str)
        )
        return (output[0], output[1]) if is_addressed else (self._first_publication(), output)

    async def _call_batch(self, messages: Sequence[BaseMessage]) -> Any:
        """What the author's batch method returned."""
        method = getattr(self, self.batch_method)
        if self.blocking and not inspect.iscoroutinefunction(method):
            return await self.context.run_blocking(method, messages)
        return await method(messages)

    async def _call_each(
        self, method: Callable[[BaseMessage], Any], messages: Sequence[BaseMessage]
    ) -> list[Any]:
        """What the method made of each message, or the exception that it raised."""
        context = self.context
        if self.blocking:
            return await context.run_blocking(_each, method, context.one_by_one(messages))
        results: list[Any] = []
        for message in context.one_by_one(messages):
            try:
                results.append(await method(message))
            except Exception as error:  # noqa: BLE001  (the host is told of it)
                results.append(error)
        return results

    async def _pass_all_on(self, messages: Sequence[BaseMessage]) -> None:
        """`_pass_on` of each."""
        if messages:
            data = [message.data for message in messages]
            await self.context.publish_batch(self._first_publication(), data, made_from=messages)

    async def _publish_all(self, outputs: Sequence[tuple[Output, BaseMessage]]) -> None:
        """`_publish` of each, made from the message beside it; neighbours to one topic go together."""
        addressed = ((self._destination(output), message) for output, message in outputs)
        for topic, group in itertools.groupby(addressed, _topic):
            data: list[Any] = []
            made_from: list[BaseMessage] = []
            for (_, item), message in group:
                items = item if isinstance(item, Many) else (item,)
                data += items
                made_from += [message] * len(items)
            await self.context.publish_batch(topic, data, made_from=made_from)

    def _first_publication(self) -> str:
        publications = self.context.publications
        if publications is not self.__publications:
            self.__first = self._checked_first(publications)
            self.__publications = publications
        return self.__first

    def _checked_first(self, publications: Sequence[str]) -> str:
        if not publications:
            raise PluginError(
                f"{self.name} has made something, and nowhere to publish it",
                fix='list a topic in "publications" of its manifest.json',
            )
        first = publications[0]
        if "*" in first or "#" in first:
            raise PluginError(
                f"{self.name} has made something, and {first!r} is a pattern, not a topic to publish it to",
                fix='put a topic first in "publications" of its manifest.json, or make (topic, data)',
            )
        return first


def _each(method: Callable[[BaseMessage], Any], messages: Iterable[BaseMessage]) -> list[Any]:
    """What `Role._call_each` does, in a thread."""
    results: list[Any] = []
    for message in messages:
        try:
            results.append(method(message))
        except Exception as error:  # noqa: BLE001  (the host is told of it)
            results.append(error)
    return results


def _topic(addressed: tuple[tuple[str, Any], BaseMessage]) -> str:
    return addressed[0][0]


def _is_async(written: Callable[..., Any]) -> bool:
    function = inspect.unwrap(written)  # a decorator's wrapper may be plain where what it wraps is not
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _place(written: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(written), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else ""


class Validator(Role):
    """Lets good messages through unchanged and stops bad ones with a reason."""

    method = "validate"

    @abstractmethod
    def validate(self, message: BaseMessage) -> Awaitable[None] | None:
        """Return if the message is good; raise `Invalid(reason)` if it is not.

        A good message goes on; an invalid one is dead-lettered at once with the reason. Any other
        exception is a failed attempt, and is retried.
        """

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish the message's data if it is valid."""
        try:
            validated: Any = (
                self._in_thread(self.validate, message) if self.blocking else self.validate(message)
            )
            await validated
        except Invalid as invalid:
            return ProcessingStatus.FAILED(str(invalid))
        await self.context.publish(self._first_publication(), message.data)
        return _OK

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Publish the data of the valid ones."""
        found = await self._call_each(self.validate, messages)
        if found.count(None) == len(found):
            await self._pass_all_on(messages)
            return [_OK] * len(messages)
        await self._pass_all_on(_chosen(messages, [error is None for error in found]))
        return [
            _OK
            if error is None
            else ProcessingStatus.FAILED(str(error))
            if isinstance(error, Invalid)
            else error
            for error in found
        ]


class Filter(Role):
    """Lets some messages through unchanged and ends the others."""

    method = "keep"

    @abstractmethod
    def keep(self, message: BaseMessage) -> Awaitable[bool] | bool:
        """Whether the message goes on. One that does not is settled, and counted as filtered."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish the message's data if it is to be kept."""
        kept: Any = self._in_thread(self.keep, message) if self.blocking else self.keep(message)
        if not await kept:
            return ProcessingStatus.FILTERED
        await self.context.publish(self._first_publication(), message.data)
        return _OK

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Publish the data of those that are to be kept."""
        found = await self._call_each(self.keep, messages)
        answers = [
            keep if isinstance(keep, Exception) else _OK if keep else ProcessingStatus.FILTERED
            for keep in found
        ]
        await self._pass_all_on(_chosen(messages, [answer is _OK for answer in answers]))
        return answers


class Transformer(Role):
    """Makes new data out of a message's data."""

    method = "transform"
    batch_method = "transform_batch"

    @abstractmethod
    def transform(self, message: BaseMessage) -> Awaitable[Output | None] | Output | None:
        """The new data, or None to drop the message. Never change `message.data` itself."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish what `transform` made."""
        made: Any = self._in_thread(self.transform, message) if self.blocking else self.transform(message)
        output = await made
        if output is None:
            return ProcessingStatus.FILTERED
        await self._publish(output)
        return _OK

    async def transform_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Output | None]:
        """Optional: the outputs of many messages at once, one each; for what works on many more cheaply.

        Where it raises, each message is tried again alone, by `transform`.
        """
        return await self._call_each(self.transform, messages)

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Publish what was made of each."""
        outputs = await self._call_batch(messages)
        if len(outputs) != len(messages):
            raise PluginError(
                f"transform_batch of {self.name} made {len(outputs)} outputs of {len(messages)} messages",
                fix="return one for each, in order; None for a message that is dropped",
            )
        if _are_all_plain(outputs):
            await self.context.publish_batch(self._first_publication(), outputs, made_from=messages)
            return [_OK] * len(messages)
        answers: list[Answer] = []
        made: list[tuple[Output, BaseMessage]] = []
        for output, message in zip(outputs, messages, strict=True):
            if output is None:
                answers.append(ProcessingStatus.FILTERED)
            elif isinstance(output, Exception):
                answers.append(output)
            else:
                answers.append(_OK)
                made.append((output, message))
        await self._publish_all(made)
        return answers


class Router(Role):
    """Decides where messages go."""

    method = "route"

    @abstractmethod
    def route(self, message: BaseMessage) -> Awaitable[str | Iterable[str]] | str | Iterable[str]:
        """The topic or topics that the message's data goes to; none of them ends the message."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish the message's data to each topic that `route` named."""
        found: Any = self._in_thread(self.route, message) if self.blocking else self.route(message)
        routes = await found
        topics = (routes,) if isinstance(routes, str) else tuple(routes)
        if not topics:
            return ProcessingStatus.FILTERED
        for destination in topics:
            await self.context.publish(destination, message.data)
        return _OK

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Publish the data of each to its topics."""
        found = await self._call_each(self.route, messages)
        answers: list[Answer] = []
        made: list[tuple[Output, BaseMessage]] = []
        for routes, message in zip(found, messages, strict=True):
            if isinstance(routes, Exception):
                answers.append(routes)
                continue
            destinations = (routes,) if isinstance(routes, str) else tuple(routes)
            answers.append(_OK if destinations else ProcessingStatus.FILTERED)
            made += [((destination, message.data), message) for destination in destinations]
        await self._publish_all(made)
        return answers


class Source(Role):
    """Brings messages in from outside. It has no subscriptions; the host iterates `produce`."""

    method = "produce"

    def __init_subclass__(cls, *, blocking: bool | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(blocking=blocking, **kwargs)
        if inspect.iscoroutinefunction(inspect.unwrap(cls.produce)):
            raise PluginError(
                f"{cls.__name__}.produce is a coroutine that yields nothing",
                where=_place(cls.produce),
                fix="`yield` each output instead of returning them",
            )
        if cls.is_told_of_settlement() and _is_async(cls.settled) == cls.blocking:
            raise PluginError(
                f"{cls.__name__}.settled must be of the same kind as {cls.__name__}.produce",
                where=_place(cls.settled),
                fix="write a plain def" if cls.blocking else "write `async def settled`",
            )

    @abstractmethod
    def produce(self) -> AsyncIterator[Output] | Iterable[Output]:
        """Yield data, or `(topic, data)`. Each is published before the next is asked for.

        Ending means there is nothing more to come. A blocking source is a plain generator.
        """

    def settled(self, message: BaseMessage, ending: Ending) -> Awaitable[None] | None:
        """Override it to learn when `message`, and all that plugins made from it, has ended, and how.

        `message` is one that `produce` yielded, as it was published; `ending` is the worst of all its ends.
        Called once for each message that was accepted, one call after another, in the order in which they
        end, while `produce` runs and after it, and before `shutdown`. Such a source is shut down after all
        other plugins, so publish nothing in `shutdown`. After a crash nothing is called: a source that reads
        a log acknowledges only what a `FinishedPrefix` says.

        The source may have `delivery.queue_limit` messages under way, and then waits. An exception, or no
        answer within `timeouts.message_ms`, makes it DEGRADED until a call succeeds; no call is repeated.
        """
        return None

    @classmethod
    def is_told_of_settlement(cls) -> bool:
        """Whether `settled` is overridden; nothing is counted for a source that does not want to know."""
        return cls.settled is not Source.settled

    async def tell(self, message: BaseMessage, ending: Ending) -> None:
        """Call `settled`; in a thread if the source is blocking. Called by the host."""
        if self.blocking:
            await self.context.run_blocking(self.settled, message, ending)
        elif (answer := self.settled(message, ending)) is not None:
            await answer

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """A source is fed nothing."""
        return ProcessingStatus.FAILED("a source handles no messages")

    async def run(self) -> None:
        """Publish everything that `produce` yields; returns when it is exhausted. Called by the host.

        When it is cancelled, or a publication fails, `produce` is closed before this ends.
        """
        if self.blocking:
            await self._run_blocking()
            return
        outputs = cast(AsyncIterator[Output], self.produce())
        try:
            async for output in outputs:
                await self._publish(output)
        finally:
            if isinstance(outputs, AsyncGenerator):
                await outputs.aclose()

    async def _run_blocking(self) -> None:
        in_thread = self.context.run_blocking
        outputs = await in_thread(lambda: iter(cast(Iterable[Output], self.produce())))
        while (output := await in_thread(next, outputs, _END)) is not _END:
            await self._publish(output)


_END: Final = object()


class Sink(Role):
    """Takes messages out: to a file, a service, a screen."""

    method = "write"
    batch_method = "write_batch"

    @abstractmethod
    def write(self, message: BaseMessage) -> Awaitable[None] | None:
        """Write the message. It may come again after a crash: recognise it by `message.id`."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Write it."""
        written: Any = self._in_thread(self.write, message) if self.blocking else self.write(message)
        await written
        return _OK

    async def write_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Exception | None] | None:
        """Optional: write many messages at once, for a store that takes many more cheaply.

        Where it raises, each message is tried again alone, by `write`. To say that some were not
        written, return a list with an exception for each of those, and None for each of the others.
        """
        return await self._call_each(self.write, messages)

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Sequence[Answer]:
        """Write them."""
        found = await self._call_batch(messages)
        if found is None or found.count(None) == len(found) == len(messages):
            return [_OK] * len(messages)
        return [result if isinstance(result, Exception) else _OK for result in found]


_OK: Final = ProcessingStatus.ACKNOWLEDGED
_NOT_PLAIN: Final = (Exception, tuple, type(None), BaseMessage)


def _chosen(messages: Sequence[BaseMessage], wanted: Sequence[bool]) -> Sequence[BaseMessage]:
    return messages if all(wanted) else list(itertools.compress(messages, wanted))


def _are_all_plain(outputs: Iterable[Output]) -> bool:
    """Whether each is data for the first publication, and nothing else."""
    return not any(issubclass(kind, _NOT_PLAIN) for kind in set(map(type, outputs)))
