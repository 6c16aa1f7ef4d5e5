"""Runs the telemetry benchmarks on every Python given, prints the tables, and saves them.

    python -m benchmarks.telemetry_report [--python PATH ...] [--quick]

Writes docs/benchmarks/telemetry.json (everything as measured), telemetry.md and telemetry.svg; with --quick,
under out/ instead. Each measurement is a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from benchmarks import ROOT

_ENGINES: Final = ("fast", "official")
_PROTOCOLS: Final = ("http/protobuf", "grpc")
_WHOLE: Final = "whole message, sampled"
_COLOURS: Final = {"fast": "#1f5fa8", "by hand": "#9a9a9a", "official": "#c2571a"}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", help="an interpreter with this project installed")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it works")
    arguments = parser.parse_args()
    results = [measured(python, quick=arguments.quick) for python in arguments.python or [sys.executable]]
    folder = ROOT / ("out/benchmarks" if arguments.quick else "docs/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    page = written(results)
    (folder / "telemetry.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "telemetry.md").write_text(page, encoding="utf-8")
    (folder / "telemetry.svg").write_text(drawn(results), encoding="utf-8")
    print(page)


def measured(python: str, *, quick: bool) -> dict[str, Any]:
    """Everything, on one interpreter."""
    rounds, seconds, times = ("3", "2", 2) if quick else ("25", "10", 7)
    found = run(python, "telemetry_operations", "--rounds", rounds)
    found["end_to_end"] = {
        engine: run(python, "telemetry_end_to_end", engine, "--seconds", seconds) for engine in _ENGINES
    }
    found["weight"] = {
        f"{engine}, {protocol}": lightest(python, engine, protocol, times)
        for protocol in _PROTOCOLS
        for engine in _ENGINES
    }
    found["weight"]["the interpreter alone"] = lightest(python, "none", "-", times)
    return found


def lightest(python: str, engine: str, protocol: str, times: int) -> dict[str, float]:
    """The middle of some processes' times; what they hold in memory hardly differs."""
    runs = [run(python, "telemetry_weight", engine, protocol) for _ in range(times)]
    return {key: statistics.median(one[key] for one in runs) for key in runs[0]}


def run(python: str, module: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark printed."""
    print(f"==> {Path(python).parent.parent.name}: {module} {' '.join(arguments)}", file=sys.stderr)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    command = [python, "-m", f"benchmarks.{module}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


_INTRODUCTION: Final = """\
# What telemetry costs

Written by `make bench-telemetry`; the numbers as measured are in `telemetry.json`.

- `fast` and `official`: the two engines of `common_telemetry`, called in the same way, with the same data.
- `by hand`: a message as people trace it with the OpenTelemetry SDK: extract, one span with five attributes,
  inject, one histogram, one counter.
- The `whole message` of the engines is more than that: a process span, a publish span with inject, three
  histograms, a counter, and on each span the attributes of both vocabularies.
- `fast` writes the spans of messages in their final bytes as they end, so the rows of whole messages,
  `process` and `publish` contain that; `official` makes span objects, and its exporter encodes them later.
  The row `encode` is about an ordinary span (`create_span`, six attributes), which both encode at the export.

![CPU time of a whole message](telemetry.svg)
"""


def written(results: Sequence[dict[str, Any]]) -> str:
    """The page of results."""
    parts = [_INTRODUCTION]
    for result in results:
        parts.append(f"## Python {result['python']}, opentelemetry-sdk {result['opentelemetry']}\n")
        parts += tables(result)
    return "\n".join(parts)


def tables(result: dict[str, Any]) -> list[str]:
    """The tables of one interpreter."""
    rounds = result["rounds"]
    return [
        f"CPU time of the calling thread in microseconds a call, middle (and best) of {rounds} rounds:\n",
        *operations(result["operations"]),
        "",
        "Full speed over OTLP/HTTP to a receiver in another process, which counts every span:\n",
        *end_to_end(result["end_to_end"]),
        "",
        "A process that has reported one span, one measurement and one log record:\n",
        *weight(result["weight"]),
        "",
    ]


def operations(measured: dict[str, Any]) -> list[str]:
    """The table of single operations; the ratio is of the middles."""
    rows = ["| | fast | official | | by hand | off |", "| --- | --- | --- | --- | --- | --- |"]
    for operation, by_name in measured.items():
        cells = [cell(by_name.get(name)) for name in ("fast", "official", "by hand", "off")]
        ratio = by_name["official"]["median"] / by_name["fast"]["median"]
        rows.append(f"| {operation} | {cells[0]} | {cells[1]} | {ratio:.1f}x | {cells[2]} | {cells[3]} |")
    return rows


def cell(times: dict[str, float] | None) -> str:
    """Middle and best."""
    return "" if times is None else f"{times['median']:.2f} ({times['best']:.2f})"


def end_to_end(measured: dict[str, Any]) -> list[str]:
    """The table of the runs at full speed."""
    rows = [
        "| engine | messages/s | spans made | arrived | lost | CPU us a span, all threads | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for engine, found in measured.items():
        lost = found["spans"] - found["arrived"]
        rate = found["messages"] / found["seconds"]
        rows.append(
            f"| {engine} | {rate:,.0f} | {found['spans']:,} | {found['arrived']:,} | {lost:,} "
            f"| {found['cpu_us_per_span']:.1f} | {found['max_rss_mb']:.0f} |"
        )
    ratio = measured["official"]["cpu_us_per_span"] / measured["fast"]["cpu_us_per_span"]
    return [*rows, "", f"CPU time a span: {ratio:.1f} times less."]


def weight(measured: dict[str, Any]) -> list[str]:
    """The table of import time and memory."""
    rows = ["| | time to import and set up, ms | resident, MB | modules |", "| --- | --- | --- | --- |"]
    for name, found in measured.items():
        rows.append(
            f"| {name} | {found['seconds'] * 1e3:.0f} | {found['resident_mb']:.1f} | {found['modules']:.0f} |"
        )
    return rows


def drawn(results: Sequence[dict[str, Any]]) -> str:
    """Bars: the whole message, for each interpreter and each way to do it."""
    bars = [
        (f"{result['python']} {name}", result["operations"][_WHOLE][name]["median"], colour)
        for result in results
        for name, colour in _COLOURS.items()
    ]
    longest = max(value for _, value, _ in bars)
    height = 24 * len(bars) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="640" height="{height}" fill="#ffffff"/>',
        '<text x="8" y="20" font-weight="bold">A whole message, sampled: CPU microseconds</text>',
    ]
    for number, (name, value, colour) in enumerate(bars):
        top, width = 34 + 24 * number, max(1.0, 400 * value / longest)
        parts.append(f'<text x="8" y="{top + 13}">{escape(name)}</text>')
        parts.append(f'<rect x="130" y="{top}" width="{width:.0f}" height="17" fill="{colour}"/>')
        parts.append(f'<text x="{138 + width:.0f}" y="{top + 13}">{value:.1f}</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
