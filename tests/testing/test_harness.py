import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from echo_core import (
    BaseMessage,
    Manifest,
    Plugin,
    PluginContext,
    PluginError,
    ProcessingStatus,
    PublishRefused,
    Source,
    Transformer,
)
from echo_core.errors import ConfigError, MessageError, NotFound, TopicError
from echo_core.testing import PluginHarness, async_test


def a_manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "under_test",
        "version": "1.2.3",
        "description": "What the tests run.",
        "entry_point": "create_plugin",
        "subscriptions": ("in.*",),
        "publications": ("out.first", "out.second"),
    }
    return Manifest(**(fields | changes))


class Double(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        return {"n": message.data["n"] * 2}


class Numbers(Source):
    def __init__(self) -> None:
        self.given_back = False

    async def produce(self) -> AsyncIterator[Any]:
        number = 0
        while True:
            number += 1
            yield {"n": number}


class Returning(Plugin):
    """Returns what it is told to."""

    def __init__(self, status: Any) -> None:
        self.status = status

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        return self.status  # type: ignore[no-any-return]


@async_test
async def test_what_a_plugin_publishes_can_be_read() -> None:
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        assert await harness.handle({"n": 2}) == ProcessingStatus.ACKNOWLEDGED
        assert harness.data == [{"n": 4}]
        assert [topic for topic, _ in harness.published] == ["out.first"]


@async_test
async def test_a_published_message_carries_a_receipt_for_the_one_that_was_handled() -> None:
    original = BaseMessage(source="elsewhere", data={"n": 2})
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        await harness.handle(original)
        made = harness.published[0].message
    assert made.parent_ids == (original.id,)
    assert (made.source, made.version) == ("under_test", "1.2.3")


@async_test
async def test_the_plugin_gets_its_name_and_its_config_from_the_manifest() -> None:
    plugin = Double()
    manifest = a_manifest(config={"kept": 1, "changed": 1})
    async with PluginHarness(plugin, manifest=manifest, config={"changed": 2}) as harness:
        assert plugin.name == "under_test"
        assert plugin.context is harness.context
        assert dict(plugin.context.config) == {"kept": 1, "changed": 2}


def test_a_config_that_the_schema_does_not_admit_is_refused() -> None:
    schema = {"properties": {"size": {"type": "integer"}}, "additionalProperties": False}
    manifest = a_manifest(config={"size": 1}, config_schema=schema)
    with pytest.raises(ConfigError, match="'big' is not of type 'integer'"):
        PluginHarness(Double(), manifest=manifest, config={"size": "big"})


@async_test
async def test_publishing_outside_the_publications_is_refused() -> None:
    class Elsewhere(Transformer):
        async def transform(self, message: BaseMessage) -> Any:
            return ("out.third", message.data)

    async with PluginHarness(Elsewhere(), manifest=a_manifest()) as harness:
        with pytest.raises(PublishRefused, match=r"may not publish to 'out\.third'.*out\.first"):
            await harness.handle({})
        assert harness.published == []


@async_test
async def test_data_that_cannot_be_sent_is_refused() -> None:
    class Unsendable(Transformer):
        async def transform(self, message: BaseMessage) -> Any:
            return {"lock": threading.Lock()}

    async with PluginHarness(Unsendable(), manifest=a_manifest()) as harness:
        with pytest.raises(MessageError, match="cannot be encoded"):
            await harness.handle({})


@async_test
async def test_a_plugin_that_changes_message_data_fails() -> None:
    class Mutating(Transformer):
        async def transform(self, message: BaseMessage) -> Any:
            message.data["words"].append("mine")
            return message.data

    async with PluginHarness(Mutating(), manifest=a_manifest()) as harness:
        with pytest.raises(AssertionError, match=r"changed message\.data from \{'words': \[\]\}"):
            await harness.handle({"words": []})


@async_test
async def test_an_exception_of_the_plugin_comes_through() -> None:
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        with pytest.raises(KeyError, match="n"):
            await harness.handle({})


@async_test
async def test_a_forwarded_message_is_published() -> None:
    forward = ProcessingStatus.FORWARD("out.second", {"n": 7})
    async with PluginHarness(Returning(forward), manifest=a_manifest()) as harness:
        assert await harness.handle({}) == forward
        assert [(topic, message.data) for topic, message in harness.published] == [("out.second", {"n": 7})]


@async_test
async def test_a_forgotten_status_is_named() -> None:
    async with PluginHarness(Returning(None), manifest=a_manifest()) as harness:
        with pytest.raises(PluginError, match="returned None"):
            await harness.handle({})


@async_test
async def test_a_blocking_plugin_is_called_in_a_thread() -> None:
    class Blocking(Plugin, blocking=True):
        def process_message(self, topic: str, message: BaseMessage) -> Any:
            self.thread = threading.current_thread()
            return ProcessingStatus.ACKNOWLEDGED

    plugin = Blocking()
    async with PluginHarness(plugin, manifest=a_manifest()) as harness:
        assert await harness.handle({}) == ProcessingStatus.ACKNOWLEDGED
    assert plugin.thread is not threading.main_thread()


@pytest.mark.parametrize(
    ("pattern", "topic"), [("in.plain", "in.plain"), ("in.*.done", "in.test.done"), ("#", "test")]
)
@async_test
async def test_messages_come_from_a_topic_that_the_first_subscription_means(pattern: str, topic: str) -> None:
    class Remembering(Plugin):
        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            self.topic = topic
            return ProcessingStatus.ACKNOWLEDGED

    plugin = Remembering()
    async with PluginHarness(plugin, manifest=a_manifest(subscriptions=(pattern,))) as harness:
        await harness.handle({})
    assert plugin.topic == topic


@async_test
async def test_the_topic_can_be_told_for_all_messages_and_for_one() -> None:
    class Remembering(Plugin):
        async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
            self.topics = [*getattr(self, "topics", []), topic]
            return ProcessingStatus.ACKNOWLEDGED

    plugin = Remembering()
    async with PluginHarness(plugin, manifest=a_manifest(), topic="in.all") as harness:
        await harness.handle({})
        await harness.handle({}, topic="in.one")
    assert plugin.topics == ["in.all", "in.one"]


@async_test
async def test_a_topic_that_the_plugin_is_not_subscribed_to_is_refused() -> None:
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        with pytest.raises(TopicError, match=r"never given messages of 'other'.*in\.\*"):
            await harness.handle({"n": 1}, topic="other")


@async_test
async def test_a_plugin_without_subscriptions_handles_nothing() -> None:
    async with PluginHarness(Double(), manifest=a_manifest(subscriptions=())) as harness:
        with pytest.raises(TopicError, match="no subscriptions"):
            await harness.handle({"n": 1})


@async_test
async def test_an_endless_source_is_stopped_after_the_limit() -> None:
    async with PluginHarness(Numbers(), manifest=a_manifest(subscriptions=())) as harness:
        published = await harness.run_source(limit=3)
        assert [message.data["n"] for _, message in published] == [1, 2, 3]
        assert published == harness.published


@async_test
async def test_a_source_runs_until_it_is_exhausted() -> None:
    class Two(Source):
        async def produce(self) -> AsyncIterator[Any]:
            yield "a"
            yield ("out.second", "b")

    async with PluginHarness(Two(), manifest=a_manifest(subscriptions=())) as harness:
        await harness.run_source()
        await harness.run_source(limit=5)
        expected = [("out.first", "a"), ("out.second", "b")]
        assert [(topic, message.data) for topic, message in harness.published] == expected * 2


@async_test
async def test_a_limit_below_one_is_refused() -> None:
    async with PluginHarness(Numbers(), manifest=a_manifest(subscriptions=())) as harness:
        with pytest.raises(ValueError, match="limit is 0"):
            await harness.run_source(limit=0)


@async_test
async def test_only_a_source_can_be_run() -> None:
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        with pytest.raises(PluginError, match="is no source"):
            await harness.run_source()


@async_test
async def test_shutdown_is_called_also_when_the_test_fails() -> None:
    class Tidy(Double):
        given_back = False

        async def shutdown(self) -> None:
            self.given_back = True

    plugin = Tidy()
    with pytest.raises(ZeroDivisionError):
        async with PluginHarness(plugin, manifest=a_manifest()):
            raise ZeroDivisionError
    assert plugin.given_back


@async_test
async def test_an_init_that_fails_fails_the_test() -> None:
    class Broken(Double):
        async def init(self, context: PluginContext) -> None:
            raise PluginError("no key")

    with pytest.raises(PluginError, match="no key"):
        async with PluginHarness(Broken(), manifest=a_manifest()):
            pytest.fail("it must not be entered")


A_PLUGIN = """
from echo_core import Filter

class Mine(Filter):
    async def keep(self, message):
        return True
"""


def test_the_manifest_is_found_above_the_source_of_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "src" / "found_by_its_manifest" / "__init__.py"
    source.parent.mkdir(parents=True)
    source.write_text(A_PLUGIN)
    document = {
        "name": "found_by_its_manifest",
        "version": "0.1.0",
        "description": "Found.",
        "entry_point": "create_plugin",
        "subscriptions": ["a"],
        "publications": [],
    }
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    import found_by_its_manifest  # type: ignore[import-not-found]

    assert PluginHarness(found_by_its_manifest.Mine()).manifest.name == "found_by_its_manifest"
    assert PluginHarness(Double(), manifest=tmp_path / "manifest.json").manifest.description == "Found."


def test_a_missing_manifest_is_named_with_the_way_to_pass_one() -> None:
    with pytest.raises(NotFound, match=r"no manifest\.json.*manifest=Path"):
        PluginHarness(Double())


class Reporting(Transformer):
    async def transform(self, message: BaseMessage) -> Any:
        with self.context.create_span("count words", {"words": 2}):
            self.context.record_counter("words", 2, {"language": "en"})
            self.context.logger().warning("counted")
        return message.data


@async_test
async def test_what_a_plugin_reports_can_be_read_while_it_runs_and_after() -> None:
    message = BaseMessage(source="elsewhere", data={})
    async with PluginHarness(Reporting(), manifest=a_manifest()) as harness:
        for _ in range(2):
            await harness.handle(message)
        assert [point.value for point in harness.metrics("words")] == [4]
        assert len(harness.spans("count words")) == 2

    (span, _), (point,), (log, _) = harness.spans("count words"), harness.metrics("words"), harness.logs()
    assert span.attributes["words"] == 2
    assert span.attributes["plugin.name"] == "under_test"
    assert span.attributes["message.id"] == message.id
    assert (point.value, point.attributes["language"]) == (4, "en")
    assert (log.body, log.trace_id) == ("counted", span.trace_id)


@async_test
async def test_the_telemetry_of_two_harnesses_is_kept_apart() -> None:
    async with (
        PluginHarness(Reporting(), manifest=a_manifest()) as first,
        PluginHarness(Reporting(), manifest=a_manifest()) as second,
    ):
        await first.handle({})
        assert len(first.spans("count words")) == 1
        assert second.spans() == []
        assert second.metrics("words") == []


@async_test
async def test_a_failing_handler_is_seen_in_its_process_span() -> None:
    async with PluginHarness(Double(), manifest=a_manifest(), topic="in.numbers") as harness:
        with pytest.raises(KeyError):
            await harness.handle({})
        (span,) = harness.spans("process in.numbers")
    assert span.status == "error"


class InBatches(Returning):
    """Publishes each message's topic, and returns what it is told to."""

    async def process_batch(self, topics: Sequence[str], messages: Sequence[BaseMessage]) -> Any:
        await self.context.publish_batch("out.first", topics, made_from=messages)
        return self.status


@async_test
async def test_a_batch_is_handed_over_as_by_the_host() -> None:
    answers = [ProcessingStatus.ACKNOWLEDGED, ProcessingStatus.FORWARD("out.second", "b")]
    async with PluginHarness(InBatches(answers), manifest=a_manifest()) as harness:
        assert await harness.handle_batch(["x", "y"], "in.here") == answers
        assert harness.data == ["in.here", "in.here", "b"]
        first, second, forwarded = (message.parent_ids for _, message in harness.published)
        assert first != second == forwarded
        (span,) = harness.spans("process in.here")
        assert span.attributes["messaging.batch.message_count"] == 2


@pytest.mark.parametrize("answers", [None, [], "ok"])
@async_test
async def test_a_batch_without_an_answer_for_each_is_told(answers: Any) -> None:
    async with PluginHarness(InBatches(answers), manifest=a_manifest()) as harness:
        with pytest.raises(PluginError, match="for 1 messages"):
            await harness.handle_batch(["x"])


@async_test
async def test_a_role_takes_batches_as_it_is() -> None:
    async with PluginHarness(Double(), manifest=a_manifest()) as harness:
        good, bad = await harness.handle_batch([{"n": 2}, {}])
        assert (good, type(bad)) == (ProcessingStatus.ACKNOWLEDGED, KeyError)
        assert harness.data == [{"n": 4}]
