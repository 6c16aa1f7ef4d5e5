import asyncio
import math
from typing import Any

import pytest

import echo_core
from echo_core import BaseMessage, Outcome, Plugin, PluginError, ProcessingStatus

MESSAGE = BaseMessage(source="test", data={"text": "hello"})


class Minimal(Plugin):
    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        return ProcessingStatus.ACKNOWLEDGED


@pytest.mark.parametrize(
    ("status", "outcome", "details", "shown"),
    [
        (ProcessingStatus.ACKNOWLEDGED, Outcome.ACKNOWLEDGED, {}, "ProcessingStatus.ACKNOWLEDGED"),
        (ProcessingStatus.FILTERED, Outcome.FILTERED, {}, "ProcessingStatus.FILTERED"),
        (
            ProcessingStatus.RETRY_LATER(1.5),
            Outcome.RETRY_LATER,
            {"delay": 1.5},
            "ProcessingStatus.RETRY_LATER(1.5)",
        ),
        (
            ProcessingStatus.FAILED("no text"),
            Outcome.FAILED,
            {"reason": "no text"},
            "ProcessingStatus.FAILED('no text')",
        ),
        (
            ProcessingStatus.FORWARD("captions.en", {"a": 1}),
            Outcome.FORWARD,
            {"topic": "captions.en", "message": {"a": 1}},
            "ProcessingStatus.FORWARD('captions.en', {'a': 1})",
        ),
    ],
)
def test_a_status_carries_its_outcome_and_what_belongs_to_it_alone(
    status: ProcessingStatus, outcome: Outcome, details: dict[str, Any], shown: str
) -> None:
    assert status.outcome is outcome
    expected = {"delay": 0.0, "reason": "", "topic": "", "message": None, **details}
    assert {name: getattr(status, name) for name in expected} == expected
    assert repr(status) == shown


def test_there_is_a_status_for_every_outcome() -> None:
    assert all(hasattr(ProcessingStatus, outcome.name) for outcome in Outcome)


def test_statuses_that_say_the_same_are_equal_and_others_are_not() -> None:
    def some() -> list[ProcessingStatus]:
        return [
            ProcessingStatus(Outcome.ACKNOWLEDGED),
            ProcessingStatus(Outcome.FILTERED),
            ProcessingStatus.RETRY_LATER(),
            ProcessingStatus.RETRY_LATER(1),
            ProcessingStatus.FAILED("a"),
            ProcessingStatus.FAILED("b"),
            ProcessingStatus.FORWARD("a", [1]),
            ProcessingStatus.FORWARD("a", [2]),
            ProcessingStatus.FORWARD("b", [1]),
        ]

    for row, one in enumerate(some()):
        assert [one == other for other in some()] == [row == column for column in range(len(some()))]
        assert hash(one) == hash(some()[row])
    assert some()[0] == ProcessingStatus.ACKNOWLEDGED
    assert some()[0] != "ACKNOWLEDGED"


def test_a_retry_without_a_delay_leaves_the_wait_to_the_host() -> None:
    assert ProcessingStatus.RETRY_LATER().delay == 0.0


@pytest.mark.parametrize("delay", [-0.1, math.inf, math.nan, "soon", None])
def test_a_retry_after_no_time_that_can_be_waited_is_refused_in_the_plugins_own_line(delay: Any) -> None:
    with pytest.raises(PluginError, match="RETRY_LATER cannot wait") as refused:
        ProcessingStatus.RETRY_LATER(delay)
    assert refused.value.fix


def test_a_plugin_without_process_message_cannot_be_made() -> None:
    class Unfinished(Plugin):
        pass

    with pytest.raises(TypeError, match="process_message"):
        Unfinished()  # type: ignore[abstract]


def test_process_message_is_the_one_method_to_write() -> None:
    async def life() -> ProcessingStatus:
        plugin = Minimal()
        context: Any = object()
        await plugin.shutdown()
        await plugin.init(context)
        assert plugin.context is context
        assert await plugin.health_check() is True
        status = await plugin.process_message("a.b", MESSAGE)
        await plugin.shutdown()
        await plugin.shutdown()
        return status

    assert asyncio.run(life()) == ProcessingStatus.ACKNOWLEDGED
    assert Minimal().name == ""


def test_a_class_says_that_it_blocks_and_those_below_it_inherit_that() -> None:
    class Blocks(Minimal, blocking=True):
        pass

    class AlsoBlocks(Blocks):
        pass

    class NoLonger(Blocks, blocking=False):
        pass

    assert [kind.blocking for kind in (Minimal, Blocks, AlsoBlocks, NoLonger)] == [False, True, True, False]


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    assert set(echo_core.__all__) == {*echo_core._HOME, "__version__"}
    for name in echo_core.__all__:
        assert getattr(echo_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = echo_core.nothing
