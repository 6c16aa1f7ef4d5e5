"""A plugin as it is handed to a host: what it says of itself, and how it is made."""

from collections.abc import Callable
from dataclasses import dataclass

from echo_core.manifest import Manifest
from echo_core.plugin import Plugin
from echo_core.runtime.libraries.library import Library
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.loader import LoadedPlugin, load


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


def offer_of(library: Library, store: Store) -> Offer:
    """The library's plugin; its files are verified again when it is loaded."""
    source = _FromLibrary(library, store)
    return Offer(
        manifest=library.manifest,
        load=source.load,
        unload=source.unload,
        build_type=library.build_type,
        digest=library.digest,
    )


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
