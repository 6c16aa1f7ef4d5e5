import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from echo_core import BaseMessage, Manifest, Plugin, PluginContext, Source, Transformer
from echo_core.testing import ContractBroken, async_test, check_plugin_contract
from echo_core.testing.plugin_contract import PLUGIN_CHECKS, PluginCheck, Subject

MANIFEST = Manifest(
    name="under_test",
    version="1.0",
    description="What the tests run.",
    entry_point="create_plugin",
    subscriptions=("in",),
    publications=("out",),
)


class Good(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        return {**message.data, "seen": True}


class GoodSource(Source):
    async def produce(self) -> AsyncIterator[Any]:
        while True:
            yield {}


class Words(Source):
    """Says how far it is once it has said all the words of a line."""

    lines = ("a b", "c", "d e f")

    async def produce(self) -> AsyncIterator[Any]:
        state = self.context.state
        for number, line in enumerate(self.lines[state.get("next", 0) :], state.get("next", 0) + 1):
            for word in line.split():
                yield word
            state["next"] = number


class WithBackgroundTask(Good):
    """Begins a task in `init`, and ends it in `shutdown`."""

    task: asyncio.Task[None] | None = None

    async def init(self, context: PluginContext) -> None:
        await super().init(context)
        self.task = asyncio.create_task(self.publish_for_ever())

    async def publish_for_ever(self) -> None:
        while True:
            await self.context.publish("out", {})
            await asyncio.sleep(0)

    async def shutdown(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])


@pytest.mark.parametrize("plugin", [Good, GoodSource, Words, WithBackgroundTask])
@async_test
async def test_a_good_plugin_passes_every_check(plugin: type[Plugin]) -> None:
    subscriptions = () if issubclass(plugin, Source) else ("in",)
    manifest = msgspec.structs.replace(MANIFEST, subscriptions=subscriptions)
    await check_plugin_contract(plugin, manifest, samples=[{"text": "good"}, "a sample it cannot handle"])


ONE = Good()


class FailsAtInit(Good):
    async def init(self, context: PluginContext) -> None:
        raise OSError("no such device")


class NeedsInitToShutDown(Good):
    async def shutdown(self) -> None:
        self.context.logger()


class ShutsDownOnce(Good):
    is_down = False

    async def shutdown(self) -> None:
        if self.is_down:
            raise RuntimeError("already down")
        self.is_down = True


class AnswersNothing(Good):
    async def health_check(self) -> bool:
        return None  # type: ignore[return-value]


class ChangesTheData(Good):
    async def transform(self, message: BaseMessage) -> Any:
        message.data["seen"] = True
        return message.data


class ChangesTheDataAndFails(Good):
    async def transform(self, message: BaseMessage) -> Any:
        message.data.clear()
        raise ValueError


class ForgetsItsRulesInBatches(Good):
    async def transform_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Any]:
        return [None for _ in messages]


class SaysGoodbyeTooLate(Good):
    async def shutdown(self) -> None:
        if hasattr(self, "context"):
            self.goodbye = asyncio.create_task(self.say_goodbye())

    async def say_goodbye(self) -> None:
        await asyncio.sleep(0)
        await self.context.publish("out", "goodbye")


class ForgetsItsTask(WithBackgroundTask):
    async def shutdown(self) -> None:
        pass


class IsAheadOfItself(Words):
    async def produce(self) -> AsyncIterator[Any]:
        state = self.context.state
        for number, line in enumerate(self.lines[state.get("next", 0) :], state.get("next", 0) + 1):
            state["next"] = number
            for word in line.split():
                yield word


BREACHES: list[tuple[str, Callable[[], Any], str]] = [
    ("each_plugin_is_a_fresh_one", lambda: ONE, "the same plugin twice"),
    ("each_plugin_is_a_fresh_one", object, "object, which is no Plugin"),
    ("it_starts_and_stops", FailsAtInit, "init raised OSError"),
    ("shutdown_is_safe_without_init", NeedsInitToShutDown, "shutdown without init raised AttributeError"),
    ("shutdown_is_safe_twice", ShutsDownOnce, "shutdown the second time raised RuntimeError"),
    ("health_is_a_bool", AnswersNothing, "health_check returned None"),
    ("message_data_is_never_changed", ChangesTheData, "changed from {'text': 'a'} to"),
    ("message_data_is_never_changed", ChangesTheDataAndFails, "changed from {'text': 'a'} to {}"),
    ("a_batch_goes_as_its_messages_would_alone", ForgetsItsRulesInBatches, "in a batch as .'filtered'.$"),
    ("a_source_leaves_nothing_out_when_it_goes_on", IsAheadOfItself, r"'out', 'c'.*where .*'out', 'b'"),
    ("nothing_is_published_after_shutdown", SaysGoodbyeTooLate, "published after shutdown: out"),
    ("shutdown_leaves_no_task_running", ForgetsItsTask, "publish_for_ever"),
]


def check_named(name: str) -> PluginCheck:
    return next(check for check in PLUGIN_CHECKS if check.__name__ == f"check_{name}")


@pytest.mark.parametrize(("name", "create", "complaint"), BREACHES)
@async_test
async def test_a_broken_promise_is_seen(name: str, create: Callable[[], Any], complaint: str) -> None:
    subject = Subject(create_plugin=create, manifest=MANIFEST, samples=[{"text": "a"}])
    with pytest.raises(ContractBroken, match=complaint):
        await check_named(name)(subject)


@async_test
async def test_a_default_config_that_its_own_schema_refuses_is_seen() -> None:
    manifest = msgspec.structs.replace(MANIFEST, config_schema={"required": ["path"]})
    good = Subject(create_plugin=Good, manifest=MANIFEST)
    check = check_named("the_default_config_fits_its_schema")
    await check(good)
    with pytest.raises(ContractBroken, match="'path' is a required property"):
        await check(replace(good, manifest=manifest))


def test_every_check_is_proven_to_fail() -> None:
    proven = {f"check_{name}" for name, _, _ in BREACHES} | {"check_the_default_config_fits_its_schema"}
    assert proven == {check.__name__ for check in PLUGIN_CHECKS}
