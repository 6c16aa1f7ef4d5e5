"""The plugins of the workshop in a real host, without the detour over a built library."""

import functools
import importlib
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from common_telemetry import TelemetryConfig, TelemetryContext
from echo_core import Plugin, Source
from echo_core.manifest import Manifest, read
from echo_core.runtime.dead_letters import DeadLetter, DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.settings import Settings
from echo_core.runtime.statistics import PluginSnapshot
from echo_core.transports.memory import MemoryTransport

REPOSITORY: Final = Path(__file__).parents[2]
WORKSHOP: Final = REPOSITORY / "plugins" / "workshop"
PANEL: Final = REPOSITORY / "examples" / "transcripts" / "panel.jsonl"
CAPTIONS: Final = (
    "transcript_source",
    "transcript_validator",
    "filler_filter",
    "caption_transformer",
    "language_router",
    "webvtt_sink",
)


def manifest_of(name: str) -> Manifest:
    return read(WORKSHOP / name / "manifest.json")


@contextmanager
def importable(*names: str) -> Iterator[None]:
    """While the block runs these plugins can be imported; afterwards no trace of them is left."""
    paths, modules = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(WORKSHOP / name / "src") for name in names]
    try:
        yield
    finally:
        sys.path[:] = paths
        for module in set(sys.modules) - modules:
            if module.partition(".")[0] in names:
                del sys.modules[module]


def create(name: str) -> Plugin:
    plugin = importlib.import_module(name).create_plugin()
    assert isinstance(plugin, Plugin)
    return plugin


class Feeder(Source):
    """Publishes what it is given."""

    def __init__(self, feed: Sequence[tuple[str, Any]]) -> None:
        self._feed = feed

    async def produce(self) -> AsyncIterator[tuple[str, Any]]:
        for item in self._feed:
            yield item


def _feeder_manifest(feed: Sequence[tuple[str, Any]]) -> Manifest:
    return Manifest(
        name="feeder",
        version="1.0.0",
        description="for a test",
        entry_point="create_plugin",
        plugin_type="source",
        subscriptions=(),
        publications=tuple(dict(feed)),
    )


class Outcome:
    """What a run left behind."""

    def __init__(self, plugins: Sequence[PluginSnapshot], dead_letters: list[DeadLetter]) -> None:
        self.plugins: Mapping[str, PluginSnapshot] = {plugin.name: plugin for plugin in plugins}
        self.dead_letters = dead_letters


async def run_until_idle(
    folder: Path,
    plugins: Mapping[str, dict[str, Any]],
    *,
    feed: Sequence[tuple[str, Any]] = (),
    environ: Mapping[str, str] | None = None,
) -> Outcome:
    """Run these plugins with their configurations to the end; `feed` is published to them first.

    `environ` is where telemetry goes, in OpenTelemetry's own variables; nowhere without it.
    """
    telemetry = TelemetryContext.from_config(TelemetryConfig(), environ=dict(environ or {}))
    dead_letters = DeadLetterStore(folder / "dead_letters.sqlite")
    host = Host(
        settings=Settings(plugins=dict(plugins)),
        transport=MemoryTransport(),
        telemetry=telemetry,
        dead_letters=dead_letters,
        environ={},
    )
    if feed:
        host.add(_feeder_manifest(feed), lambda: Feeder(feed))
    with importable(*plugins):
        for name in plugins:
            host.add(manifest_of(name), functools.partial(create, name))
        final = await host.run(until_idle=True)
    telemetry.shutdown()
    outcome = Outcome(final.plugins, dead_letters.newest(limit=10_000))
    dead_letters.close()
    return outcome
