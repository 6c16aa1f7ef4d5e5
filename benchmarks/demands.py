"""What Echo Core is held to, and whether it holds: one row a figure."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from benchmarks.measure import Measured, Run


@dataclass(frozen=True, kw_only=True)
class Row:
    """One demand and what was found. `met` is None where it could not be measured; `note` says why."""

    what: str
    demanded: str
    found: str = ""
    spread: str = ""
    by_cpu: str = ""
    """The same ratio of CPU time a message, which other work on the machine hardly changes."""
    met: bool | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """Our rate over that of a peer must be at least `at_least`; without that it is only shown."""

    ours: str
    peer: str
    what: str
    at_least: float | None = None


def _over(
    server: str, name: str, over_peer: float, client: str, over_client: float | None = None
) -> tuple[Ratio, Ratio]:
    ours = f"echo_core_{server}"
    return (
        Ratio(ours, f"faststream_{server}", f"over {name}, against FastStream, both traced", over_peer),
        Ratio(ours, f"{server}_bare", f"over {name}, against {client} by hand, untraced", over_client),
    )


RATIOS: Final = (
    Ratio("echo_core", "handwritten_traced", "all traced, against asyncio by hand with the official SDK", 20),
    Ratio("echo_core_pure", "handwritten_traced", "the same, Echo Core as pure Python"),
    Ratio("echo_core", "handwritten_untraced", "all traced, against that program without its telemetry", 0.7),
    Ratio("echo_core", "handwritten_lean", "all traced, against the leanest by hand, untraced"),
    Ratio("echo_core", "faststream", "all traced, against FastStream traced, both in memory", 20),
    Ratio("echo_core_dead", "echo_core", "all traced, a dead endpoint against a healthy one", 0.8),
    Ratio("echo_core_dead", "echo_core_off", "all traced, a dead endpoint against telemetry off", 0.8),
    Ratio("echo_core_batch", "bytewax", "batch mode, against Bytewax in batches", 0.5),
    Ratio("echo_core_batch_traced", "bytewax", "batch mode, all traced, against Bytewax untraced"),
    *_over("nats", "NATS JetStream", 5, "nats-py", 0.6),
    Ratio("echo_core_nats", "faststream_nats_core", "the same, against FastStream traced, at most once"),
    Ratio("echo_core_nats_local", "echo_core_nats", "two of three topics local, against all three over NATS"),
    *_over("redis", "Redis Streams", 3, "redis-py"),
    *_over("amqp", "RabbitMQ", 3, "aio-pika"),
    *_over("kafka", "Kafka", 3, "aiokafka"),
    Ratio(
        "echo_core_off", "handwritten_untraced", "telemetry off, against asyncio by hand without telemetry"
    ),
    Ratio("echo_core_off", "handwritten_lean", "telemetry off, against the leanest by hand"),
    Ratio("echo_core_off", "node_red", "telemetry off, against Node-RED"),
    Ratio("echo_core", "node_red", "all traced, against Node-RED untraced"),
    Ratio("echo_core_off", "dramatiq", "telemetry off, against dramatiq's stub broker"),
    Ratio("echo_core_off", "bytewax", "telemetry off, one message at a time, against Bytewax in batches"),
)


def against_peers(measured: Sequence[Measured]) -> list[Row]:
    """The rows of `RATIOS` whose contestants took part."""
    by_key = {one.contestant.key: one for one in measured}
    return [
        _ratio(ratio, by_key[ratio.ours], by_key[ratio.peer])
        for ratio in RATIOS
        if ratio.ours in by_key and ratio.peer in by_key
    ]


def _ratio(ratio: Ratio, ours: Measured, peer: Measured) -> Row:
    demanded = f">= {ratio.at_least:g}x its rate" if ratio.at_least is not None else "-"
    missing = [f"{one.contestant.title}: {one.unavailable}" for one in (ours, peer) if one.unavailable]
    if missing:
        return Row(what=ratio.what, demanded=demanded, note="; ".join(missing))
    found = ours.median(_rate) / peer.median(_rate)
    pairs = [mine.rate / theirs.rate for mine, theirs in zip(ours.runs, peer.runs, strict=True)]
    by_cpu = peer.median(_cpu) / ours.median(_cpu)
    lost = sum(run.spans_lost + run.measurements_lost for one in (ours, peer) for run in one.runs)
    return Row(
        what=ratio.what,
        demanded=demanded,
        found=_times(found),
        spread=f"{_times(min(pairs))} .. {_times(max(pairs))}",
        met=None if ratio.at_least is None else found >= ratio.at_least and not lost,
        by_cpu=_times(by_cpu),
        note=f"{lost:,} spans or measurements lost" if lost else "",
    )


def of_latency(latency: Mapping[str, Any]) -> list[Row]:
    """A hop at 20 % load."""
    rows = []
    for setting, found in latency.items():
        for percentile, limit_ms in (("p50_ms", 0.2), ("p99_ms", 2.0)):
            values = [run[percentile] for run in found["runs"]]
            rows.append(
                Row(
                    what=f"added latency of a hop at 20 % load, telemetry {setting}, {percentile[:3]}",
                    demanded=f"< {limit_ms:g} ms",
                    found=f"{found[percentile]:.3f} ms",
                    spread=f"{min(values):.3f} .. {max(values):.3f}",
                    met=found[percentile] < limit_ms,
                    note=f"{found['rate']:,.0f} messages/s; the machine was away for"
                    f" {found['machine_away']:.1%} of the time, for {found['machine_away_longest_ms']:.1f} ms"
                    " at once",
                )
            )
    return rows


def of_queues(by_size: Mapping[int, Sequence[float]]) -> Row:
    """What 1,000 tasks that all have work cost against 10 where nothing but them is there."""
    few, many = by_size[10], by_size[1_000]
    pairs = [b / a for a, b in zip(few, many, strict=True)]
    return Row(
        what="the same by hand: 1,000 asyncio.Queues with a task for each against 10, each message another's",
        demanded="-",
        found=_times(statistics.median(many) / statistics.median(few)),
        spread=f"{_times(min(pairs))} .. {_times(max(pairs))}",
        note=f"{statistics.median(few):.1f} and {statistics.median(many):.1f} us CPU",
    )


def of_subscriptions(plugins: Mapping[str, Mapping[int, Sequence[float]]], who: str) -> list[Row]:
    """1,000 subscriptions against 10; `who` gets the messages."""
    rows = []
    for setting, by_size in plugins.items():
        few, many = by_size[10], by_size[1_000]
        found = statistics.median(many) / statistics.median(few)
        pairs = [b / a for a, b in zip(few, many, strict=True)]
        rows.append(
            Row(
                what=f"cost a message, 1,000 active subscriptions against 10, {who}, telemetry {setting}",
                demanded="<= 1.2x",
                found=_times(found),
                spread=f"{_times(min(pairs))} .. {_times(max(pairs))}",
                met=found <= 1.2,
                note=f"{statistics.median(few):.1f} and {statistics.median(many):.1f} us CPU",
            )
        )
    return rows


def of_memory(memory: Mapping[str, Any], wanted: int) -> list[Row]:
    """Resident size after a tenth of the messages against the end."""
    rows = []
    for setting, found in memory.items():
        sizes = found["resident_bytes"]
        what = f"memory, {found['messages']:,} messages, telemetry {setting}"
        if not all(sizes):
            rows.append(Row(what=what, demanded="flat within 5 %", note="this system does not tell"))
            continue
        rows.append(
            Row(
                what=what,
                demanded="flat within 5 %",
                found=f"{sizes[-1] / sizes[0] - 1:+.1%}",
                met=20 * abs(sizes[-1] - sizes[0]) <= sizes[0],
                note=_memory_note(found) + (_FEWER if found["messages"] < wanted else ""),
            )
        )
    return rows


_FEWER: Final = "; fewer messages than demanded, for want of time"


def _memory_note(found: Mapping[str, Any]) -> str:
    sizes = (found["resident_bytes"][0], found["resident_bytes"][-1], found["most_resident_bytes"])
    first, last, most = (f"{size / 2**20:.1f}" for size in sizes)
    return (
        f"{first} MiB after a tenth, {last} at the end, {most} at most in between;"
        f" at most {found['most_spans_waiting']:,} spans waited, {found['spans_dropped']:,} were dropped"
    )


def of_seconds(what: str, limit_s: float, values: Sequence[float], unavailable: str = "") -> Row:
    """Something that must not take long."""
    if unavailable:
        return Row(what=what, demanded=f"< {limit_s:g} s", note=unavailable)
    found = statistics.median(values)
    return Row(
        what=what,
        demanded=f"< {limit_s:g} s",
        found=f"{found:.3f} s",
        spread=f"{min(values):.3f} .. {max(values):.3f}",
        met=found < limit_s,
    )


def _rate(run: Run) -> float:
    return run.rate


def _cpu(run: Run) -> float:
    return run.cpu_us


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 10 else f"{ratio:.3f}x"
