"""The six roles: a thin `Plugin` each, with one method to write.

What a role makes goes to the first of its `publications`, unless it says where: a result that is a
tuple `(topic, data)` goes to that topic. The method is a coroutine (`async def`), as a rule; a class
declared `blocking=True` writes a plain `def`, which runs in a thread.
"""

import inspect
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, ClassVar, Final, TypeAlias, cast

from echo_core.errors import Invalid, PluginError
from echo_core.message import BaseMessage
from echo_core.plugin import Plugin, ProcessingStatus
from echo_core.settlement import Ending

Output: TypeAlias = Any
"""Data for the plugin's first publication, or `(topic, data)`."""


class Role(Plugin):
    """What the six have in common: how the one method is called, and where its result goes."""

    method: ClassVar[str]
    """Name of the one method that the author writes."""

    def __init_subclass__(cls, *, blocking: bool | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(blocking=blocking, **kwargs)
        written = getattr(cls, getattr(cls, "method", ""), None)
        if written is None or getattr(written, "__isabstractmethod__", False):
            return
        is_async = _is_async(written)
        if is_async == cls.blocking:
            raise PluginError(
                f"{cls.__name__}.{cls.method} is a {'coroutine' if is_async else 'plain def'}, "
                f"but {cls.__name__} is {'' if cls.blocking else 'not '}declared blocking",
                where=_place(written),
                fix="write a plain def"
                if is_async
                else f"write `async def {cls.method}`, or `blocking=True`",
            )

    # These three are no coroutines: they hand on another's, which saves one for each message.

    def _call(self, method: Callable[[BaseMessage], Any], message: BaseMessage) -> Awaitable[Any]:
        if self.blocking:
            return self.context.run_blocking(method, message)
        awaitable: Awaitable[Any] = method(message)
        return awaitable

    def _publish(self, output: Output) -> Awaitable[BaseMessage]:
        if isinstance(output, tuple) and len(output) == 2 and isinstance(output[0], str):
            topic, data = output
        else:
            topic, data = self._first_publication(), output
        return self.context.publish(topic, data)

    def _pass_on(self, message: BaseMessage) -> Awaitable[BaseMessage]:
        """Publish the data as it is; what it looks like says nothing about where it goes."""
        return self.context.publish(self._first_publication(), message.data)

    def _first_publication(self) -> str:
        publications = self.context.publications
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
            await self._call(self.validate, message)
        except Invalid as invalid:
            return ProcessingStatus.FAILED(str(invalid))
        await self._pass_on(message)
        return ProcessingStatus.ACKNOWLEDGED


class Filter(Role):
    """Lets some messages through unchanged and ends the others."""

    method = "keep"

    @abstractmethod
    def keep(self, message: BaseMessage) -> Awaitable[bool] | bool:
        """Whether the message goes on. One that does not is settled, and counted as filtered."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish the message's data if it is to be kept."""
        if not await self._call(self.keep, message):
            return ProcessingStatus.FILTERED
        await self._pass_on(message)
        return ProcessingStatus.ACKNOWLEDGED


class Transformer(Role):
    """Makes new data out of a message's data."""

    method = "transform"

    @abstractmethod
    def transform(self, message: BaseMessage) -> Awaitable[Output | None] | Output | None:
        """The new data, or None to drop the message. Never change `message.data` itself."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish what `transform` made."""
        output = await self._call(self.transform, message)
        if output is None:
            return ProcessingStatus.FILTERED
        await self._publish(output)
        return ProcessingStatus.ACKNOWLEDGED


class Router(Role):
    """Decides where messages go."""

    method = "route"

    @abstractmethod
    def route(self, message: BaseMessage) -> Awaitable[str | Iterable[str]] | str | Iterable[str]:
        """The topic or topics that the message's data goes to; none of them ends the message."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish the message's data to each topic that `route` named."""
        routes = await self._call(self.route, message)
        topics = (routes,) if isinstance(routes, str) else tuple(routes)
        if not topics:
            return ProcessingStatus.FILTERED
        for destination in topics:
            await self.context.publish(destination, message.data)
        return ProcessingStatus.ACKNOWLEDGED


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

    @abstractmethod
    def write(self, message: BaseMessage) -> Awaitable[None] | None:
        """Write the message. It may come again after a crash: recognise it by `message.id`."""

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Write it."""
        await self._call(self.write, message)
        return ProcessingStatus.ACKNOWLEDGED
