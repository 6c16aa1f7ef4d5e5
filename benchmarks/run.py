"""`make bench` and `make bench-quick`: measure, print the tables, save them.

A whole run writes docs/benchmarks; a quick one, or one of some parts only, writes out/benchmarks.
"""

import argparse
import datetime
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT, alone, demands, machine, report, sections, servers
from benchmarks.demands import Row
from benchmarks.measure import Measured, RunFailed, run_all
from benchmarks.peers import IN_PROCESS
from benchmarks.receiver import Receiver
from echo_core import __version__

PARTS: Final = ("peers", "latency", "scaling", "memory", "start")
"""What is measured here; `benchmarks.sections` has more."""
_MEMORY_MESSAGES: Final = 1_000_000
_MEMORY_SECONDS: Final = 150
"""A setting that is too slow for a million messages gets as many as fit into this time."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each run of a contestant."""
    sizes: dict[str, tuple[int, ...]]
    settings: tuple[str, ...]
    """Telemetry settings in which scaling and memory are measured."""
    scaling_rounds: int
    memory_messages: int


FULL: Final = Plan(5, 3.0, alone.SIZES, ("traced", "off"), 3, _MEMORY_MESSAGES)
_ENDS: Final[dict[str, tuple[int, ...]]] = {"plugins": (10, 1_000), "bystanders": (10, 1_000)}
QUICK: Final = Plan(3, 0.7, _ENDS, ("off",), 3, _MEMORY_MESSAGES // 10)


def _say(line: str) -> None:
    sys.stderr.write(f"    {line}\n")
    sys.stderr.flush()


class Session:
    """One run of the suite: what was measured so far."""

    def __init__(self, plan: Plan, receiver: Receiver) -> None:
        self.plan = plan
        self.receiver = receiver
        self.rows: list[Row] = []
        self.measured: list[Measured] = []
        self.curves: dict[str, dict[str, dict[int, list[float]]]] = {}
        self.data: dict[str, Any] = {}
        self.pages: list[str] = []
        """Of the sections."""

    def run(self, part: str) -> None:
        """Measure one part or section, by its name."""
        if part in PARTS:
            getattr(self, part)()
            return
        found = sections.load(part).section(self.plan is not FULL, _say)
        self.rows += found.rows
        self.pages.append(found.page)
        self.data[part] = found.data

    def peers(self) -> None:
        """The contestants side by side."""
        chosen = [one for one in IN_PROCESS if one.quick or self.plan is FULL]
        self.measured = self._run(chosen, self.plan.rounds, self.plan.seconds)
        self.rows += demands.against_peers(self.measured)
        self.data["contestants"] = report.as_json(self.measured)

    def _run(self, chosen: Sequence[Any], rounds: int, seconds: float) -> list[Measured]:
        return run_all(chosen, rounds=rounds, seconds=seconds, receiver=self.receiver, say=_say)

    def _rates(self) -> dict[str, float]:
        """Messages a second of Echo Core alone, by telemetry setting; measured now if nobody has."""
        keys = {"echo_core": "traced", "echo_core_off": "off"}
        measured = self.measured or self._run([one for one in IN_PROCESS if one.key in keys], 1, 1.0)
        return {
            keys[one.contestant.key]: one.median(lambda run: run.rate)
            for one in measured
            if one.contestant.key in keys and not one.unavailable
        }

    def latency(self) -> None:
        """A hop at 20 % load."""
        rounds = 3 if self.plan is FULL else 1
        found = alone.latency(self._rates(), seconds=5.0, rounds=rounds, receiver=self.receiver, say=_say)
        self.rows += demands.of_latency(found)
        self.data["latency"] = found

    def scaling(self) -> None:
        """The curves."""
        self.curves = alone.scaling(
            self.plan.sizes,
            self.plan.settings,
            seconds=0.5,
            rounds=self.plan.scaling_rounds,
            receiver=self.receiver,
            say=_say,
        )
        by_hand = alone.queues((10, 1_000), seconds=0.5, rounds=self.plan.scaling_rounds, say=_say)
        self.rows += demands.of_subscriptions(self.curves["plugins"], "each message another plugin's")
        self.rows.append(demands.of_queues(by_hand))
        self.rows += demands.of_subscriptions(self.curves["bystanders"], "all messages for ten of them")
        self.data["scaling"] = self.curves
        self.data["queues_by_hand"] = by_hand

    def memory(self) -> None:
        """A million messages, or what fits into the time."""
        rates = self._rates()
        counts = {
            setting: int(min(self.plan.memory_messages, rates[setting] * _MEMORY_SECONDS))
            for setting in self.plan.settings
            if setting in rates
        }
        found = alone.memory(counts, receiver=self.receiver, say=_say)
        self.rows += demands.of_memory(found, _MEMORY_MESSAGES)
        self.data["memory"] = found

    def start(self) -> None:
        """The host, and the command."""
        started = alone.start(50, self.plan.rounds, say=_say)
        answered, unavailable = alone.version_command(self.plan.rounds, say=_say)
        self.rows.append(demands.of_seconds("start of a host with 50 in-process plugins", 2.0, started))
        self.rows.append(demands.of_seconds("echo-core --version", 0.15, answered, unavailable))
        self.data["start"] = {"host_50_plugins_s": started, "version_s": answered}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line says."""
    everything = (*PARTS, *sections.SECTIONS)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer messages, three rounds, the core rows")
    parser.add_argument("--only", action="append", choices=everything, help="this part (may be repeated)")
    told = parser.parse_args(arguments)
    plan = QUICK if told.quick else FULL
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then too
    before = machine.describe()
    with Receiver() as receiver:
        session = Session(plan, receiver)
        usual = [part for part in everything if not told.quick or part in PARTS or part in sections.IN_QUICK]
        for part in told.only or usual:
            _say(f"-- {part}")
            try:
                session.run(part)
            except RunFailed as failure:  # what the others found is not to be lost with it
                _say(str(failure))
                session.rows.append(
                    Row(what=part, demanded="-", met=False, note=str(failure).splitlines()[0])
                )
    results = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "version": __version__,
        "command": "make bench-quick" if plan is QUICK else "make bench",
        "rounds": plan.rounds,
        "machine": before | {"load_average_after": machine.describe()["load_average"]},
        "nats_server": servers.nats_version(),
        "demands": [row.as_json() for row in session.rows],
        **session.data,
    }
    whole = plan is FULL and not told.only
    folder = ROOT / ("docs" if whole else "out") / "benchmarks"
    page = report.document(results, session.measured, session.rows, session.curves, session.pages)
    _save(folder, results, page, session.curves)
    print(page)
    print(f"saved in {folder.relative_to(ROOT)}")


def _save(folder: Path, results: dict[str, Any], page: str, curves: report.Curves) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page, encoding="utf-8")
    for shape, settings in curves.items():
        (folder / f"{shape}.svg").write_text(report.curve_plot(shape, settings), encoding="utf-8")


if __name__ == "__main__":
    main()
