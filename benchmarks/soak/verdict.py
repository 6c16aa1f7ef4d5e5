"""What must hold at the end of a soak, judged from what was counted and seen. Everything here is pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.soak.load import HEARS, is_kept, is_valid, never_works
from benchmarks.soak.watch import Holdings, Sample
from echo_core.runtime.statistics import PluginSnapshot

MEMORY: Final = 0.05
"""Resident size: the median of the last quarter may differ from that of the second by so much of it."""
LATENCY: Final = 2.0
"""Median time on the longest way: in the last quarter at most so many times that of the second, ..."""
LATENCY_MS: Final = 2.0
"""... and this much more, because below a few milliseconds the machine decides."""
ROOM: Final = 2
"""So many more tasks, threads or descriptors are no growth. What counts is the fewest in each quarter: a
health check has a task for each plugin for a moment, but what leaks stays."""
SHORTEST_S: Final = 60.0
"""A shorter run says nothing about growth: it never gets beyond warming up."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold. `holds` is None where the run cannot tell."""

    what: str
    found: str
    holds: bool | None


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What the plugins themselves and the dead letters say."""

    plugins: Mapping[str, PluginSnapshot]
    dead_letters: Mapping[str, int]
    """In the store, by plugin."""
    told: int
    """How often the source was told of an end."""
    unfinished: int
    out_of_order: int
    left_out: int
    """Messages that a guest should have had."""


def of_accounts(counted: Counted) -> list[Check]:
    """Every message is accounted for, at every plugin."""
    checks = []
    for name, publisher in HEARS.items():
        plugin, sent = counted.plugins[name], counted.plugins[publisher].published
        ended = plugin.processed + plugin.filtered + plugin.dead_lettered
        shed = sum(plugin.shed.values())
        checks.append(
            Check(
                f"{name}: received = processed + filtered + dead-lettered; and with shed, published to it",
                f"{plugin.received:,} = {plugin.processed:,} + {plugin.filtered:,} +"
                f" {plugin.dead_lettered:,}; + {shed:,} shed = {sent:,}",
                plugin.received == ended and ended + shed == sent and not plugin.in_hand + plugin.queue,
            )
        )
    kept = {name: counted.dead_letters.get(name, 0) for name in counted.plugins}
    sent = counted.plugins["segments"].published
    numbers = range(1, sent + 1)
    refused = sent - sum(map(is_valid, numbers))
    hopeless = sum(never_works(number) for number in numbers if is_kept(number))
    checks += [
        Check(
            "every dead letter is kept",
            f"{sum(kept.values()):,}",
            all(kept[name] == plugin.dead_lettered for name, plugin in counted.plugins.items()),
        ),
        Check("what is refused is dead-lettered", f"{refused:,}", kept["checker"] == refused),
        Check("what fails at every attempt is dead-lettered", f"{hopeless:,}", kept["speakers"] == hopeless),
        Check(
            "nothing else is, except by an outage",
            ", ".join(f"{name} {count:,}" for name, count in kept.items() if count),
            not sum(kept[name] for name in kept if name not in ("checker", "speakers", "flaky")),
        ),
        Check(
            "the source was told of every end",
            f"{counted.told:,} of {sent:,}, {counted.unfinished:,} unfinished",
            counted.told == sent and not counted.unfinished,
        ),
        Check("order within each key", f"{counted.out_of_order:,} out of order", not counted.out_of_order),
        Check("a plugin that comes and goes misses nothing", f"{counted.left_out:,}", not counted.left_out),
    ]
    return checks


def of_samples(samples: Sequence[Sample]) -> list[Check]:
    """Nothing grows from the second quarter of the run to the last."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[len(samples) - quarter :]
    if not quarter:
        return [Check("nothing grows", "too few samples", None)]
    is_long = samples[-1].at_s >= SHORTEST_S
    return [
        check if is_long else replace(check, holds=None)
        for check in (
            _memory(second, last),
            _latency(second, last),
            _not_more("tasks", second, last, lambda sample: sample.holdings.tasks),
            _not_more("threads", second, last, lambda sample: sample.holdings.threads),
            _not_more("file descriptors", second, last, lambda sample: sample.holdings.descriptors),
        )
    ]


def _memory(second: Sequence[Sample], last: Sequence[Sample]) -> Check:
    before = statistics.median(sample.resident_bytes for sample in second)
    after = statistics.median(sample.resident_bytes for sample in last)
    change = after / before - 1 if before else 0.0
    return Check(
        f"memory: flat within {MEMORY:.0%}",
        f"{before / 2**20:.1f} MiB, then {after / 2**20:.1f} ({change:+.1%})",
        abs(change) <= MEMORY if before else None,
    )


def _latency(second: Sequence[Sample], last: Sequence[Sample]) -> Check:
    before, after = (
        statistics.median([sample.p50_ms for sample in some if sample.p50_ms is not None] or [0.0])
        for some in (second, last)
    )
    return Check(
        f"latency: at most {LATENCY:g} times what it was, and {LATENCY_MS:g} ms",
        f"{before:.2f} ms, then {after:.2f}",
        after <= before * LATENCY + LATENCY_MS,
    )


def _not_more(
    what: str, second: Sequence[Sample], last: Sequence[Sample], of: Callable[[Sample], int]
) -> Check:
    before, after = min(map(of, second)), min(map(of, last))
    return Check(f"{what}: no growth", f"at least {before}, then {after}", after <= before + ROOM)


def of_remains(before: Holdings, after: Holdings) -> list[Check]:
    """When the host is stopped and its telemetry shut down, nothing of it is left."""
    found = ", ".join(
        f"{getattr(after, name) - getattr(before, name):+d} {name}"
        for name in ("tasks", "threads", "descriptors")
    )
    return [Check("nothing is left when it has stopped", found, after.are_within(before))]
