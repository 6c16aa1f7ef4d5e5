"""A host in this process with plugins of the benchmark: `echo-core run` without the libraries."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import Plugin
from echo_core.manifest import Manifest, parse
from echo_core.runtime.collector import patient_collector
from echo_core.runtime.dead_letters import DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.settings import Settings
from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport

FLUSH_S = 300.0
"""Long enough for the slowest backlog; telemetry that is given up would not be counted as delivered."""


def telemetry_for(variant: str) -> TelemetryContext:
    """An engine by name ("off" is one), or "" for the default. Where it goes is told by OTEL_*."""
    return TelemetryContext.from_config(TelemetryConfig.from_mapping({"engine": variant} if variant else {}))


def manifest(name: str, *, hears: Sequence[str] = (), says: Sequence[str] = (), **more: Any) -> Manifest:
    """The manifest that an author would write; everything else is left at its default."""
    document = {
        "name": name,
        "version": "1.0.0",
        "description": "measured",
        "entry_point": "create_plugin",
        "subscriptions": list(hears),
        "publications": list(says),
        **more,
    }
    return parse(msgspec.json.encode(document))


@contextmanager
def host_with(
    plugins: Sequence[tuple[Plugin, Manifest]],
    telemetry: TelemetryContext,
    transport: Transport | None = None,
    history: Recorder | None = None,
) -> Iterator[Host]:
    """A host with these plugins, not yet run; on the memory transport unless told."""
    with tempfile.TemporaryDirectory() as folder:
        host = Host(
            settings=Settings(),
            transport=transport or MemoryTransport(),
            telemetry=telemetry,
            dead_letters=DeadLetterStore(Path(folder) / "dead_letters.sqlite"),
            message_history=history,
            environ={},
        )
        for plugin, of in plugins:
            host.add(of, partial(_itself, plugin))
        yield host


def _itself(plugin: Plugin) -> Plugin:
    return plugin


async def run_until_idle(
    plugins: Sequence[tuple[Plugin, Manifest]],
    telemetry: TelemetryContext,
    transport: Transport | None = None,
    history: Recorder | None = None,
) -> None:
    """Run these plugins, as `echo-core run` does, until all sources are exhausted and all is settled."""
    with host_with(plugins, telemetry, transport, history) as host, patient_collector():
        final = await host.run(until_idle=True)
    if final.failed:
        raise RuntimeError(f"the host did not end well: {final}")
