"""A plugin as it is handed to a host: what it says of itself, and how it is made."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from echo_core.errors import PluginLoadError
from echo_core.manifest import Manifest
from echo_core.plugin import Plugin
from echo_core.runtime.isolation.keeper import spec_of
from echo_core.runtime.isolation.limits import IN_PROCESS, tier_of
from echo_core.runtime.isolation.plugin import RemotePlugin
from echo_core.runtime.libraries.compiled import check_host
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.libraries.wheel import Wheel, read_wheel
from echo_core.runtime.loader import LoadedPlugin, load
from echo_core.runtime.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Good for one life of the plugin."""

    manifest: Manifest
    load: Callable[[], Plugin]
    """Makes the instance; it may import, block, and raise."""
    unload: Callable[[], None] = lambda: None
    """Undoes it; safe without `load`, safe twice."""
    build_type: str = ""
    digest: str = ""
    """Tells one build from another of the same version; empty where there is no library."""
    library: Library | None = None
    """What the plugin can be made of in a process of its own, with the store that it is unpacked to."""
    store: Store | None = None

    def in_tier(self, settings: Settings, environ: Mapping[str, str]) -> Callable[[], Plugin]:
        """What makes the plugin in the stricter of the tiers that it and the operator ask for."""
        if tier_of(self.manifest, settings.isolation) == IN_PROCESS:
            return self.load
        library, store = self.library, self.store

        def make() -> Plugin:
            if library is None or store is None:
                raise PluginLoadError(
                    f"{self.manifest.name} cannot have a process of its own",
                    why="it was handed to the host as an object, and a process is started from a library",
                    fix="build and activate it, or run it in_process",
                )
            return RemotePlugin(spec_of(library, store.state, settings, environ))

        return make


def offer_of(library: Library, store: Store) -> Offer:
    """The library's plugin; its files are verified again when it is loaded."""
    source = _FromLibrary(library, store)
    return Offer(
        manifest=library.manifest,
        load=source.load,
        unload=source.unload,
        build_type=library.build_type,
        digest=library.digest,
        library=library,
        store=store,
    )


def check_beside_host(library: Library, settings: Settings, others: Iterable[Library] = ()) -> None:
    """Raise `PluginLoadError` if the plugin carries a compiled package that cannot be in the host's process.

    Beside what is installed there, and what the `others` bring, one of its own name left out. Nothing is
    wrong with one that is to have a process of its own.
    """
    if not _is_in_host(library, settings):
        return
    beside = (
        (other.name, _wheels_of(other))
        for other in others
        if other.name != library.name and _is_in_host(other, settings)
    )
    check_host(library.name, _wheels_of(library), beside)


def _is_in_host(library: Library, settings: Settings) -> bool:
    return tier_of(library.manifest, settings.isolation) == IN_PROCESS


def _wheels_of(library: Library) -> list[Wheel]:
    return [read_wheel(library.path / name) for name in library.wheels]


class _FromLibrary:
    def __init__(self, library: Library, store: Store) -> None:
        self._library = library
        self._store = store
        self._loaded: LoadedPlugin | None = None

    def load(self) -> Plugin:
        self._loaded = load(self._library, self._store)
        return self._loaded.plugin

    def unload(self) -> None:
        if self._loaded is not None:
            self._loaded.unload()
            self._loaded = None
