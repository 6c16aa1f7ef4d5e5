"""The results as Markdown: the same text on the terminal and in docs/benchmarks/README.md."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks import plot
from benchmarks.demands import Row
from benchmarks.measure import Measured, Run

CURVES: Final = {
    "plugins": ("active subscriptions", "Plugins, each with a subscription of its own"),
    "bystanders": ("active subscriptions", "Plugins of which ten get messages, and the others none"),
    "fan_out": ("subscribers of one topic", "Fan-out of one message"),
    "chain": ("plugins one after another", "Length of the chain"),
    "payload": ("bytes of text in a message, through 3 plugins", "Payload"),
}
Curves = Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns that line up in plain text too."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (head, *rows)
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def demands(rows: Sequence[Row]) -> str:
    """Every demand with what was found."""
    said = {True: "yes", False: "NO", None: "-"}
    return table(
        ("what", "demanded", "found", "spread", "by CPU time", "met", "note"),
        [
            (
                row.what,
                row.demanded,
                row.found or "-",
                row.spread or "-",
                row.by_cpu or "-",
                said[row.met],
                row.note,
            )
            for row in rows
        ],
    )


def contestants(measured: Sequence[Measured]) -> str:
    """Rates and CPU time of everybody, and whether all telemetry arrived."""
    return table(
        (
            "contestant",
            "messages/s",
            "min .. max",
            "us CPU a message",
            "min .. max",
            "telemetry delivered",
            "versions",
        ),
        [_contestant(one) for one in measured],
    )


def _contestant(one: Measured) -> tuple[str, ...]:
    title = one.contestant.title
    if one.unavailable:
        return (title, "-", "-", "-", "-", "-", f"no figures: {one.unavailable}")
    low, high = one.spread(lambda run: run.rate)
    cheap, dear = one.spread(lambda run: run.cpu_us)
    versions = ", ".join(f"{name} {version}" for name, version in one.versions.items() if name != "python")
    return (
        title,
        f"{one.median(lambda run: run.rate):,.0f}",
        f"{low:,.0f} .. {high:,.0f}",
        f"{one.median(lambda run: run.cpu_us):,.1f}",
        f"{cheap:,.1f} .. {dear:,.1f}",
        _delivered(one) if one.contestant.is_traced else "none made",
        versions or "standard library",
    )


def _delivered(one: Measured) -> str:
    spans = sum(one.contestant.spans_per_message * run.messages for run in one.runs)
    lost = sum(run.spans_lost for run in one.runs)
    unmeasured = sum(run.measurements_lost for run in one.runs)
    if not lost and not unmeasured:
        return f"all of {spans:,} spans"
    return f"{lost:,} of {spans:,} spans lost, {unmeasured:,} measurements lost"


def curve(shape: str, settings: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """One scaling curve as a table."""
    label, _ = CURVES[shape]
    sizes = list(next(iter(settings.values())))
    head = (label, *(f"us CPU a message, telemetry {name} (min .. max)" for name in settings))
    rows = [(f"{size:,}", *(_cell(by_size[size]) for by_size in settings.values())) for size in sizes]
    return table(head, rows)


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} .. {max(values):,.1f})"


def curve_plot(shape: str, settings: Mapping[str, Mapping[int, Sequence[float]]]) -> str:
    """The same as SVG."""
    label, title = CURVES[shape]
    series = {
        f"telemetry {name}": [(size, statistics.median(values)) for size, values in by_size.items()]
        for name, by_size in settings.items()
    }
    return plot.line_plot(title, label, "us CPU a message", series)


def machine(found: Mapping[str, Any]) -> str:
    """One line for the reader."""
    return (
        f"{found['processor']}, {found['cores']} cores, {found['memory_gib']} GiB; {found['system']};"
        f" {found['python']}; load average {found['load_average']} before"
        f" and {found['load_average_after']} after the run"
    )


def document(
    results: Mapping[str, Any],
    measured: Sequence[Measured],
    rows: Sequence[Row],
    curves: Curves,
    pages: Sequence[str] = (),
) -> str:
    """The whole page."""
    parts = [
        "# Benchmarks",
        "Echo Core beside what people would use instead, in one run on one machine. How it is measured, and"
        " what the figures do not say: [method.md](method.md). Where the time of a message goes:"
        " [profile.md](profile.md). The figures as data: [results.json](results.json).",
        f"Written by `{results['command']}` on {results['date']}, Echo Core {results['version']}."
        f" {results['rounds']} rounds, interleaved; medians, and in `spread` the smallest and largest.",
        f"Machine: {machine(results['machine'])}.",
        "## What we hold ourselves to",
        demands(rows),
    ]
    if measured:
        parts += ["## Three plugins in a row: validate, transform, sink", contestants(measured)]
    if curves:
        parts.append("## How the cost of a message grows")
    for shape, settings in curves.items():
        parts += [f"### {CURVES[shape][1]}", f"![{CURVES[shape][1]}]({shape}.svg)", curve(shape, settings)]
    parts += [page.strip() for page in pages]
    return "\n\n".join(parts) + "\n"


def as_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Every run of everybody."""
    return [
        {
            "key": one.contestant.key,
            "title": one.contestant.title,
            "versions": one.versions,
            "unavailable": one.unavailable,
            "runs": [_run(run) for run in one.runs],
        }
        for one in measured
    ]


def _run(run: Run) -> dict[str, Any]:
    return {
        "messages": run.messages,
        "seconds": run.seconds,
        "rate": run.rate,
        "cpu_us": run.cpu_us,
        "spans_lost": run.spans_lost,
        "measurements_lost": run.measurements_lost,
    }
