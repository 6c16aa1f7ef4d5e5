"""What a backend gets of a plugin in a process of its own: the same traces, sent by that process itself."""

import asyncio
import os
from pathlib import Path

import pytest

from common_telemetry.testing import OtlpReceiver, ReceivedSpan
from echo_core.runtime.dead_letters import DeadLetter, ReplayWish
from runtime.hosting import Handler, Numbers, manifest
from runtime.isolation.tiers import Tiers
from support.letters import letter

CODE = """
    import os
    from echo_core import Transformer

    class Traced(Transformer):
        async def init(self, context):
            await super().init(context)
            with context.create_span("warm up"):
                pass

        async def transform(self, message):
            with self.context.create_span("inner", {"pid": os.getpid()}):
                self.context.logger().info("seen %s", message.data)
                self.context.record_counter("seen")
                await self.context.run_blocking(self.count)
            if message.data == 1:
                raise ValueError("one")
            if message.data == 2:
                os._exit(9)
            return message.data

        def count(self):
            self.context.record_histogram("size", 1)

    def create_plugin():
        return Traced()
"""


def host_and_receive(
    folder: Path, items: list[int], *letters: DeadLetter
) -> tuple[OtlpReceiver, list[ReceivedSpan]]:
    with OtlpReceiver() as receiver:
        environ = receiver.environ()
        tiers = Tiers(folder, otel=environ)
        tiers.world.dead_letters.add(letters)
        tiers.world.dead_letters.jobs.add(ReplayWish())
        tiers.add(CODE, environ=environ)
        tiers.world.add(Numbers(items), manifest("feed", says=("in",), plugin_type="source"))
        tiers.world.add(Handler(), manifest("drain", hears=("out",)))
        asyncio.run(tiers.world.run())
        assert tiers.world.telemetry.shutdown()
        return receiver, receiver.spans()


def named(spans: list[ReceivedSpan], name: str, plugin: str = "subject") -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name and span.attributes["plugin.name"] == plugin]


def test_what_is_replayed_begins_a_trace_that_links_to_the_old_one(tmp_path: Path) -> None:
    _, spans = host_and_receive(tmp_path, [], letter(0, plugin="subject", topic="in"))
    (handled,) = named(spans, "process in")
    (link,) = handled.links
    assert (link.trace_id, handled.parent_span_id) == ("ab" * 16, "")
    assert handled.trace_id != link.trace_id


def test_a_trace_goes_through_the_process_and_on(tmp_path: Path) -> None:
    receiver, spans = host_and_receive(tmp_path, [0])
    (sent,) = named(spans, "publish in", "feed")
    (handled,) = named(spans, "process in")
    (inner,) = named(spans, "inner")
    (published,) = named(spans, "publish out")
    (drained,) = named(spans, "process out", "drain")
    assert {span.trace_id for span in (handled, inner, published, drained)} == {sent.trace_id}
    assert handled.parent_span_id == sent.span_id
    assert inner.parent_span_id == published.parent_span_id == handled.span_id
    assert drained.parent_span_id == published.span_id
    assert inner.attributes["pid"] != os.getpid()
    assert inner.attributes["message.id"] == handled.attributes["message.id"]
    assert handled.attributes["plugin.status"] == "running"
    (log,) = [record for record in receiver.logs() if record.body == "seen 0"]
    assert (log.trace_id, log.span_id) == (inner.trace_id, inner.span_id)
    assert log.attributes["message.topic"] == "in"
    points = {
        point.name: point for point in receiver.metrics() if point.attributes.get("plugin.name") == "subject"
    }
    assert points["seen"].value == 1
    assert "size" in points
    assert "plugin.message.processing_time_ms" in points


def test_what_it_logs_is_shown_by_the_host_too_and_exported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    receiver, _ = host_and_receive(tmp_path, [0])
    (shown,) = [record for record in caplog.records if record.getMessage() == "seen 0"]
    assert shown.name == "echo.plugin.subject"
    assert vars(shown)["plugin.name"] == "subject"
    assert vars(shown)["message.topic"] == "in"
    assert len([record for record in receiver.logs() if record.body == "seen 0"]) == 1


def test_what_init_does_belongs_to_the_event_that_the_host_reports(tmp_path: Path) -> None:
    _, spans = host_and_receive(tmp_path, [])
    (event,) = named(spans, "plugin.init")
    (inner,) = named(spans, "warm up")
    assert (inner.trace_id, inner.parent_span_id) == (event.trace_id, event.span_id)


def test_every_failed_attempt_is_reported_once_and_the_dead_letter_follows_the_last(tmp_path: Path) -> None:
    _, spans = host_and_receive(tmp_path, [1])
    attempts = sorted(named(spans, "process in"), key=lambda span: span.start_ns)
    assert [span.attributes["echo.delivery.attempt"] for span in attempts] == [1, 2, 3]
    assert {span.attributes["error.type"] for span in attempts} == {"ValueError"}
    assert attempts[0].span_id in [link.span_id for link in attempts[1].links]
    (letter,) = named(spans, "publish dead_letters.subject")
    assert letter.parent_span_id == attempts[-1].span_id


def test_the_host_ends_the_trace_of_a_message_whose_process_died(tmp_path: Path) -> None:
    _, spans = host_and_receive(tmp_path, [2])
    (sent,) = named(spans, "publish in", "feed")
    crashes = named(spans, "process in")
    assert [span.attributes["error.type"] for span in crashes] == ["plugin_crash", "plugin_crash"]
    assert {span.attributes["echo.plugin.exit_code"] for span in crashes} == {9}
    assert {(span.trace_id, span.parent_span_id) for span in crashes} == {(sent.trace_id, sent.span_id)}
    (letter,) = named(spans, "publish dead_letters.subject")
    assert letter.trace_id == sent.trace_id
    assert named(spans, "plugin.crash")
    assert named(spans, "plugin.restart")


def test_what_a_process_had_not_sent_when_it_died_is_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = CODE.replace(
        "if message.data == 2:", "if message.data == 2:\n                await asyncio.sleep(0.5)"
    )
    with OtlpReceiver() as receiver:
        environ = receiver.environ() | {
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "OTEL_BLRP_SCHEDULE_DELAY": "60000",
        }
        tiers = Tiers(tmp_path, otel=environ)
        tiers.add(code.replace("import os", "import asyncio, os", 1), environ=environ)
        tiers.world.add(Numbers([0, 0, 0, 2]), manifest("feed", says=("in",), plugin_type="source"))
        asyncio.run(tiers.world.run())
        assert tiers.world.telemetry.shutdown()
        lost = {
            point.attributes["telemetry.signal"]: point.value
            for point in receiver.metrics()
            if point.name == "telemetry.lost" and point.attributes["telemetry.reason"] == "process died"
        }
    # Of each message three spans and a record of the log; the message that ends it has not ended then.
    assert lost["traces"] >= 9
    assert lost["logs"] >= 3
    assert "with it went about" in caplog.text
