"""What every plugin promises its host, as plain functions: each raises `ContractBroken`, or returns.

`check_plugin_contract` runs them all; `PLUGIN_CHECKS` holds them one by one, for a test of each.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from echo_core.manifest import Manifest, read
from echo_core.message import BaseMessage
from echo_core.plugin import Plugin
from echo_core.roles import Source
from echo_core.runtime.config import effective_config
from echo_core.runtime.settings import Settings
from echo_core.testing._checks import ContractBroken, require
from echo_core.testing.harness import PluginHarness

SOURCE_LIMIT: Final = 10
"""Messages after which a source that is checked is stopped."""
_TURNS: Final = 20
"""Turns of the event loop in which something left running would show itself."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The plugin that is checked, and what to check it with."""

    create_plugin: Callable[[], Plugin]
    manifest: Manifest
    config: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Any] = ({},)

    @property
    def messages(self) -> Sequence[Any]:
        """The samples; none for a plugin that is fed nothing."""
        return self.samples if self.manifest.subscriptions else ()

    @asynccontextmanager
    async def started(self, state: Mapping[str, Any] | None = None) -> AsyncIterator[PluginHarness]:
        """A fresh plugin after its `init`, a source with this state; the check shuts it down."""
        harness = PluginHarness(self.create_plugin(), manifest=self.manifest, config=self.config, state=state)
        await harness.transport.open()
        try:
            try:
                await harness.plugin.init(harness.context)
            except Exception as error:
                raise ContractBroken(f"init raised {error!r}") from error
            yield harness
        finally:
            await harness.close()

    async def exercise(self, harness: PluginHarness) -> None:
        """Give the plugin work: the samples, or for a source its run. It may fail at it in its own way."""
        with suppress(Exception):
            if isinstance(harness.plugin, Source):
                await harness.run_source(limit=SOURCE_LIMIT)
        for sample in self.messages:
            with suppress(Exception):
                await harness.handle(copy.deepcopy(sample))


class PluginCheck(Protocol):
    """One promise, checked."""

    __name__: str

    def __call__(self, subject: Subject) -> Awaitable[None]:
        """Return if the promise holds; raise `ContractBroken` if not."""


async def check_each_plugin_is_a_fresh_one(subject: Subject) -> None:
    """The entry point takes no arguments and returns a new `Plugin` each time it is called."""
    first, second = subject.create_plugin(), subject.create_plugin()
    require(isinstance(first, Plugin), f"the entry point returned {type(first).__name__}, which is no Plugin")
    require(first is not second, "the entry point returned the same plugin twice; it must make a new one")


async def check_the_default_config_fits_its_schema(subject: Subject) -> None:
    """The manifest's own `config` satisfies its own `config_schema`."""
    try:
        effective_config(subject.manifest, Settings(), {})
    except Exception as error:
        raise ContractBroken(
            f"the manifest's default config does not fit its config_schema: {error}"
        ) from error


async def check_it_starts_and_stops(subject: Subject) -> None:
    """With its configuration, and nothing but its context, a plugin gets through `init` and `shutdown`."""
    async with subject.started() as harness:
        await _shut_down(harness.plugin, "after init")


async def check_shutdown_is_safe_without_init(subject: Subject) -> None:
    """A plugin that never started can be shut down."""
    await _shut_down(subject.create_plugin(), "without init")


async def check_shutdown_is_safe_twice(subject: Subject) -> None:
    """Shutting down a second time does nothing."""
    async with subject.started() as harness:
        await subject.exercise(harness)
        await _shut_down(harness.plugin, "after work")
        await _shut_down(harness.plugin, "the second time")


async def check_health_is_a_bool(subject: Subject) -> None:
    """`health_check` of a plugin that has just started answers True or False."""
    async with subject.started() as harness:
        answer = await harness.plugin.health_check()
        await _shut_down(harness.plugin, "after health_check")
        require(
            isinstance(answer, bool), f"health_check returned {answer!r}, which is neither True nor False"
        )


async def check_message_data_is_never_changed(subject: Subject) -> None:
    """Other plugins are handed the same message: its data stays as it came."""
    async with subject.started() as harness:
        for sample in subject.messages:
            message = BaseMessage(source="contract", data=copy.deepcopy(sample))
            with suppress(Exception):
                await harness.handle(message)
            require(message.data == sample, f"message.data was changed from {sample!r} to {message.data!r}")
        await _shut_down(harness.plugin, "after work")


async def check_nothing_is_published_after_shutdown(subject: Subject) -> None:
    """When `shutdown` has returned, the plugin has said its last word."""
    async with subject.started() as harness:
        await subject.exercise(harness)
        await _shut_down(harness.plugin, "after work")
        published = len(harness.published)
        await _let_others_run()
        late = harness.published[published:]
        require(not late, f"published after shutdown: {', '.join(topic for topic, _ in late)}")


async def check_shutdown_leaves_no_task_running(subject: Subject) -> None:
    """Every task that the plugin began has ended when `shutdown` has returned."""
    before = asyncio.all_tasks()
    async with subject.started() as harness:
        await subject.exercise(harness)
        await _shut_down(harness.plugin, "after work")
        await _let_others_run()  # the loop itself may still be closing a generator
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        require(not left, f"still running after shutdown: {', '.join(str(task.get_coro()) for task in left)}")


async def check_a_batch_goes_as_its_messages_would_alone(subject: Subject) -> None:
    """Handed over together, each message ends as it does when it comes alone."""
    if type(subject.create_plugin()).process_batch is Plugin.process_batch or not subject.messages:
        return
    alone: list[str] = []
    async with subject.started() as harness:
        for sample in subject.messages:
            try:
                alone.append((await harness.handle(copy.deepcopy(sample))).outcome.value)
            except Exception as error:  # noqa: BLE001  (how it fails is what is compared)
                alone.append(type(error).__name__)
        await _shut_down(harness.plugin, "after work")
    async with subject.started() as harness:
        try:
            answers = await harness.handle_batch(copy.deepcopy(list(subject.messages)))
        except Exception:  # noqa: BLE001  (each would then be handled alone)
            return
        finally:
            await _shut_down(harness.plugin, "after work")
    together = [
        type(answer).__name__ if isinstance(answer, Exception) else answer.outcome.value for answer in answers
    ]
    require(together == alone, f"alone the samples end as {alone}, and in a batch as {together}")


async def check_a_source_leaves_nothing_out_when_it_goes_on(subject: Subject) -> None:
    """From the state at any of its messages, a source goes on with the next one, or with an earlier one.

    Not for one that uses no state, or that publishes other data each time.
    """
    if not issubclass(type(subject.create_plugin()), Source):
        return
    whole, states = await _run_from(subject, {})
    if not states or (await _run_from(subject, {}))[0] != whole:
        return
    for at, state in enumerate(states):
        again, _ = await _run_from(subject, state)
        rest = whole[at + 1 :]
        require(
            any(again[: len(whole) - begins] == whole[begins:] for begins in range(at + 2)),
            f"after a crash at message {at + 1} it goes on from the state {state!r} with "
            f"{again[:1] or 'nothing'}, where {rest[:1] or 'nothing'} was to come; fix: set context.state "
            "before the last message that belongs to a position, or after it",
        )


async def _run_from(subject: Subject, state: Mapping[str, Any]) -> tuple[list[Any], list[dict[str, Any]]]:
    """What a fresh source publishes from that state on, and what its state says with each."""
    async with subject.started(state) as harness:
        with suppress(Exception):
            await harness.run_source(limit=SOURCE_LIMIT)
        await _shut_down(harness.plugin, "after work")
        return [(topic, message.data) for topic, message in harness.published], harness.states


PLUGIN_CHECKS: Final[tuple[PluginCheck, ...]] = (
    check_each_plugin_is_a_fresh_one,
    check_the_default_config_fits_its_schema,
    check_it_starts_and_stops,
    check_shutdown_is_safe_without_init,
    check_shutdown_is_safe_twice,
    check_health_is_a_bool,
    check_message_data_is_never_changed,
    check_a_batch_goes_as_its_messages_would_alone,
    check_a_source_leaves_nothing_out_when_it_goes_on,
    check_nothing_is_published_after_shutdown,
    check_shutdown_leaves_no_task_running,
)


async def check_plugin_contract(
    create_plugin: Callable[[], Plugin],
    manifest: Manifest | Path,
    *,
    config: Mapping[str, Any] | None = None,
    samples: Sequence[Any] = ({},),
) -> None:
    """Run every check; raises `ContractBroken` at the first promise that does not hold.

    `config` goes over the manifest's. `samples` is data that the plugin is given to work on; give it
    some that it can handle, and some that it cannot.
    """
    known = manifest if isinstance(manifest, Manifest) else read(manifest)
    subject = Subject(create_plugin=create_plugin, manifest=known, config=config or {}, samples=samples)
    for check in PLUGIN_CHECKS:
        await check(subject)


async def _shut_down(plugin: Plugin, when: str) -> None:
    try:
        await plugin.shutdown()
    except Exception as error:
        raise ContractBroken(f"shutdown {when} raised {error!r}") from error


async def _let_others_run() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
