"""What brokers cost: `python -m benchmarks.brokers`, beside FastStream and the clients by themselves.

The three-plugin job at least once over each server, traced, against FastStream that does the same with
acknowledgement after processing, and against the client library by hand without telemetry. Then one to four
hosts that share the plugins.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import ROOT, demands, machine, report, servers
from benchmarks.demands import Row
from benchmarks.measure import Measured, RunFailed, Say, environment, run_all
from benchmarks.peers import ON_SERVERS
from benchmarks.receiver import Receiver
from benchmarks.sections import Found

OUT: Final = ROOT / "docs" / "benchmarks"
HOSTS: Final = (1, 2, 4)
_SHARED: Final = "nats"
"""The server that hosts share."""
_TIMEOUT_S: Final = 180.0
Scaling = Mapping[int, Sequence[Mapping[str, float]]]


def scaling(rounds: int, messages: int, receiver: Receiver, say: Say) -> dict[int, list[dict[str, float]]]:
    """Runs by the number of hosts, in turns; none where there is no server. Raises `RunFailed`."""
    if servers.variable(_SHARED) not in os.environ:
        return {}
    found: dict[int, list[dict[str, float]]] = {hosts: [] for hosts in HOSTS}
    for _ in range(rounds):
        for hosts, runs in found.items():
            receiver.reset()
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.programs.hosts", str(hosts), f"--messages={messages}"],
                cwd=ROOT,
                check=False,
                env=environment(receiver, messages),
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
            if done.returncode != 0:
                raise RunFailed(f"{hosts} hosts ended with {done.returncode}:\n{done.stderr[-2_000:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            say(f"{hosts} hosts: {runs[-1]['rate']:,.0f}/s, {runs[-1]['cpu_us']:.1f} us CPU")
    return found


def _middle(runs: Sequence[Mapping[str, float]], what: str) -> float:
    return statistics.median(run[what] for run in runs)


def of_scaling(found: Scaling) -> list[Row]:
    """The rate of more hosts over that of one."""
    rows = []
    for hosts in HOSTS[1:] if found else ():
        pairs = [many["rate"] / one["rate"] for one, many in zip(found[1], found[hosts], strict=True)]
        rows.append(
            Row(
                what=f"rate of {hosts} hosts over NATS JetStream, against one",
                demanded="-",
                found=f"{_middle(found[hosts], 'rate') / _middle(found[1], 'rate'):.2f}x",
                spread=f"{min(pairs):.2f}x .. {max(pairs):.2f}x",
                note=f"{os.cpu_count()} cores for the hosts, the server and the receiver together",
            )
        )
    return rows


def page(measured: Sequence[Measured], rows: Sequence[Row], hosts: Scaling) -> str:
    """The tables, from `## ` down."""
    parts = [
        "## Over brokers",
        "Three plugins in a row; all three topics are the server's, and a message is acknowledged when"
        " what was made of it is stored. CPU time is that of the contestant's process; the server's is not"
        " in it.",
        report.demands(rows),
        report.contestants(measured),
    ]
    if hosts:
        table = [
            (
                str(number),
                f"{_middle(runs, 'rate'):,.0f}",
                f"{min(run['rate'] for run in runs):,.0f} .. {max(run['rate'] for run in runs):,.0f}",
                f"{_middle(runs, 'cpu_us'):,.0f}",
            )
            for number, runs in hosts.items()
        ]
        parts += [
            "### Hosts that share the load",
            "A process each, the same three plugins, traced, on one NATS server, which held all messages when"
            f" they began; everything on {os.cpu_count()} cores, server and receiver of telemetry too."
            " What more machines would give cannot be seen here. Connecting is in both figures.",
            report.table(("hosts", "messages/s", "min .. max", "us CPU a message, all hosts"), table),
        ]
    return "\n\n".join(parts)


def measure(rounds: int, seconds: float, say: Say) -> Found:
    """All of it."""
    with Receiver() as receiver, servers.running():
        measured = run_all(ON_SERVERS, rounds=rounds, seconds=seconds, receiver=receiver, say=say)
        hosts = scaling(rounds, int(8_000 * seconds), receiver, say)
    rows = [*demands.against_peers(measured), *of_scaling(hosts)]
    data = {"contestants": report.as_json(measured), "hosts": hosts}
    return Found(rows=rows, page=page(measured, rows, hosts), data=data)


def section(quick: bool, say: Say) -> Found:
    """What `make bench` shows of it."""
    return measure(2 if quick else 3, 0.7 if quick else 2.0, say)


def main() -> None:
    """Measure, and write docs/benchmarks/brokers.md and brokers.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    before = machine.describe()
    found = measure(chosen.rounds, chosen.seconds, lambda text: print(text, file=sys.stderr, flush=True))
    about = before | {"load_average_after": machine.describe()["load_average"]}
    text = "\n\n".join(
        (
            "# Brokers",
            f"Written by `make bench-brokers`: {chosen.rounds} rounds of about {chosen.seconds:g} s that took"
            " turns; medians, and in `spread` the smallest and largest. How it is measured:"
            " [method.md](method.md). Other work on the machine lowers rates and hardly changes CPU time.",
            f"Machine: {report.machine(about)}; nats-server {servers.nats_version() or 'none'}.",
            found.page,
        )
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "brokers.md").write_text(text + "\n", encoding="utf-8")
    document = {"machine": about, "rounds": chosen.rounds, **found.data}
    (chosen.out / "brokers.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
