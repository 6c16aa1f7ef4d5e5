"""What its README shows is what an OTLP receiver gets."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common_telemetry.testing import OtlpReceiver
from echo_core.testing import async_test
from plugins.running import WORKSHOP, run_until_idle

NAME = "telemetry_example"
README = WORKSHOP / NAME / "README.md"
MESSAGES = (
    ("greetings.en", {"text": "Good evening, everybody."}),
    ("greetings.en", {"text": "and so on " * 20}),
)


class Shown:
    """What was received, in the README's words: ids by the part they play, times left out."""

    def __init__(self, receiver: OtlpReceiver) -> None:
        self.spans = [span for span in receiver.spans() if span.scope == f"echo.plugin.{NAME}"]
        self.points = [point for point in receiver.metrics() if point.scope == f"echo.plugin.{NAME}"]
        self.logs = [log for log in receiver.logs() if log.scope == f"echo.plugin.{NAME}"]
        self.names = {span.span_id: span.name for span in receiver.spans()}

    def blocks(self) -> Iterator[str]:
        for span in self.spans:
            if span.name in ("measure", "find texts"):
                yield "\n".join(self._span(span))
        for point in self.points:
            if point.name.startswith("example."):
                yield "\n".join(self._point(point))
        for log in self.logs:
            if not log.event_name:
                yield "\n".join(self._log(log))

    def _span(self, span: Any) -> Iterator[str]:
        yield f"span {span.name}, {span.kind}"
        yield f"    child of    {self.names[span.parent_span_id]}"
        yield from _attributes(span.attributes)
        for event in span.events:
            yield f"    event       {event.name}"
            yield from _attributes(event.attributes)

    def _point(self, point: Any) -> Iterator[str]:
        kind = {"sum": "counter"}.get(point.kind, point.kind)
        value = f"count {point.count}, sum {point.sum:g}" if kind == "histogram" else f"value {point.value:g}"
        yield f"{kind} {point.name}, {value}"
        yield from _attributes(point.attributes)
        for exemplar in point.exemplars if kind != "gauge" else ():  # a gauge's is any of its values
            assert exemplar.trace_id in {span.trace_id for span in self.spans}
            yield f"    exemplar    {exemplar.value:g} in {self.names[exemplar.span_id]}"
            yield from _attributes(exemplar.attributes)

    def _log(self, log: Any) -> Iterator[str]:
        yield f"log {log.severity}: {log.body}"
        yield f"    in span     {self.names[log.span_id]}"
        yield from _attributes({key: value for key, value in log.attributes.items() if key[:5] != "code."})


def _attributes(attributes: dict[str, Any]) -> Iterator[str]:
    for key, value in sorted(attributes.items()):
        shown = "<id of the message>" if key == "message.id" else value
        yield f"        {key} = {shown}"


@async_test
async def test_the_readme_shows_exactly_what_a_receiver_gets(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        await run_until_idle(tmp_path, {NAME: {}}, feed=MESSAGES, environ=receiver.environ())
        blocks = list(Shown(receiver).blocks())
    readme = README.read_text(encoding="utf-8")
    missing = [block for block in blocks if block not in readme]
    assert not missing, "not in the README:\n\n" + "\n\n".join(missing)
    shown = re.findall(r"^(?:span|counter|gauge|histogram|log) .*$", readme, re.MULTILINE)
    assert set(shown) == {block.split("\n")[0] for block in blocks}, "nothing else is shown"
