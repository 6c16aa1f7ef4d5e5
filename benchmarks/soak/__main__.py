"""`make soak`: run the load with its faults, print what was found, and save it.

The exit code is 1 if something does not hold.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT, machine
from benchmarks.hosting import telemetry_for
from benchmarks.report import table
from benchmarks.soak import verdict
from benchmarks.soak.endpoint import Endpoint
from benchmarks.soak.faults import Faults
from benchmarks.soak.load import HEARS, Load
from benchmarks.soak.verdict import Check
from benchmarks.soak.watch import Holdings, Sample, Watch, remains
from common_telemetry import TelemetryContext
from echo_core.plugin import Plugin
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.settings import HostSettings, Settings
from echo_core.settlement import Ending
from echo_core.transports.memory import MemoryTransport

FOLDER: Final = ROOT / "out" / "soak"
SPANS: Final = 8_192
"""Room in the span queue. It is full once at the beginning, while the endpoint is dead; from then on the
memory that it takes does not grow."""
_LONGEST_CYCLE_S: Final = 30.0
_STOP_S: Final = 60.0
"""Long enough to end all that waits then."""
_CYCLES: Final = 8
"""At least, so that each quarter of the run has the same faults."""


@dataclass
class Found:
    """What a run left behind."""

    checks: list[Check]
    samples: list[Sample]
    faults: dict[str, int]
    telemetry: dict[str, int]
    messages: int


async def soak(seconds: float, rate: float, state: Path, endpoint: Endpoint) -> Found:
    """Run it in this process."""
    before = Holdings.now()
    telemetry = telemetry_for("")
    load = Load(rate)
    host = Host(
        settings=Settings(host=HostSettings(shutdown_timeout_s=_STOP_S)),
        transport=MemoryTransport(),
        telemetry=telemetry,
        dead_letters=DeadLetterStore(state / "dead_letters.sqlite"),
        environ={},
    )
    for plugin, manifest in load.plugins():
        host.add(manifest, partial(_itself, plugin))
    faults = Faults(host, load, endpoint)
    watch = Watch(load.ledger.took)
    driver = asyncio.create_task(_drive(host, load, faults, watch, seconds))
    final = await host.run()
    await driver
    endpoint.start()
    health = await asyncio.to_thread(_end, telemetry)
    await asyncio.get_running_loop().shutdown_default_executor()
    plugins = {plugin.name: plugin for plugin in final.plugins}
    letters = DeadLetterStore(state / "dead_letters.sqlite")
    counted = verdict.Counted(
        plugins=plugins,
        dead_letters={name: letters.count(plugin=name) for name in plugins},
        told=load.segments.endings.total(),
        unfinished=load.segments.endings[Ending.UNFINISHED],
        out_of_order=load.speakers.out_of_order,
        left_out=load.visits.left_out,
    )
    letters.close()
    checks = [
        *verdict.of_accounts(counted),
        *verdict.of_samples(watch.samples),
        *verdict.of_remains(before, await remains(before)),
    ]
    return Found(checks, watch.samples, dict(faults.done), health, load.segments.count)


def _itself(plugin: Plugin) -> Plugin:
    return plugin


async def _drive(host: Host, load: Load, faults: Faults, watch: Watch, seconds: float) -> None:
    """Let the faults happen for so long; then let the source end."""
    await host.started()
    cycle_s = min(_LONGEST_CYCLE_S, seconds / _CYCLES)
    watching = asyncio.create_task(watch.run(min(1.0, cycle_s / 4)))
    until = time.monotonic() + seconds
    try:
        while time.monotonic() + cycle_s / 2 < until:
            await faults.cycle(cycle_s)
            _say(f"{until - time.monotonic():,.0f} s left, {load.segments.count:,} messages")
    finally:
        load.segments.ending = True
        load.flaky.is_out = False
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        with suppress(TimeoutError):
            await asyncio.wait_for(load.segments.ended.wait(), _STOP_S)
        host.request_stop()


def _end(telemetry: TelemetryContext) -> dict[str, int]:
    telemetry.flush()
    spans = telemetry.health().traces
    telemetry.shutdown()
    return {"spans exported": spans.exported, "failed": spans.failed, "dropped": spans.dropped}


def page(found: Found, seconds: float) -> str:
    """The tables."""
    said = {True: "yes", False: "NO", None: "too short to tell"}
    tenth = max(1, len(found.samples) // 10)
    looks = [
        (
            f"{sample.at_s:,.0f} s",
            f"{sample.resident_bytes / 2**20:.1f}",
            str(sample.holdings.tasks),
            str(sample.holdings.threads),
            str(sample.holdings.descriptors),
            "-" if sample.p50_ms is None else f"{sample.p50_ms:.2f}",
            "-" if sample.p95_ms is None else f"{sample.p95_ms:.2f}",
        )
        for sample in found.samples[tenth - 1 :: tenth]
    ]
    counts = found.faults | found.telemetry
    return "\n\n".join(
        [
            f"# Soak: {seconds:,.0f} s, {found.messages:,} messages to {len(HEARS)} plugins and a guest",
            table(("at", "MiB", "tasks", "threads", "descriptors", "p50 ms", "p95 ms"), looks),
            ", ".join(f"{name}: {count:,}" for name, count in counts.items()),
            table(
                ("what must hold", "found", "holds"),
                [(check.what, check.found, said[check.holds]) for check in found.checks],
            ),
        ]
    )


def _save(folder: Path, found: Found, text: str, host: dict[str, Any]) -> None:
    document = {
        "machine": host,
        "messages": found.messages,
        "faults": found.faults,
        "telemetry": found.telemetry,
        "checks": [asdict(check) for check in found.checks],
        "samples": [asdict(sample) for sample in found.samples],
    }
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _say(line: str) -> None:
    sys.stderr.write(f"    {line}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=300.0, help="messages a second from the source")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the results are saved")
    told = parser.parse_args(arguments)
    folder: Path = told.folder
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "host.log", filemode="w", level=logging.WARNING)
    endpoint = Endpoint()
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        del os.environ[name]
    os.environ |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_MAX_QUEUE_SIZE": str(SPANS),
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    }
    seconds, host = told.minutes * 60, machine.describe()
    try:
        with tempfile.TemporaryDirectory() as state:
            found = asyncio.run(soak(seconds, told.rate, Path(state), endpoint))
    finally:
        endpoint.kill()
    text = page(found, seconds)
    _save(folder, found, text, host)
    print(text)
    print(f"saved in {os.path.relpath(folder)}")
    return int(any(check.holds is False for check in found.checks))


if __name__ == "__main__":
    raise SystemExit(main())
