"""Opens a transport from its URL. A new transport is one line here."""

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from echo_core.errors import SettingsError
from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.sqlite.transport import open_from_url

_SCHEMES: Final[dict[str, Callable[[str, Path | None], Transport]]] = {
    "memory": lambda url, folder: MemoryTransport(),
    "sqlite": open_from_url,
}


def transport_for(url: str, folder: Path | None = None) -> Transport:
    """The transport that `url` names, not yet open; raises `SettingsError` for an unknown scheme.

    Relative paths in the URL begin at `folder`.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"no transport for {scheme or url!r}",
            where="host.transport",
            fix=f"use one of {', '.join(f'{known}://' for known in _SCHEMES)}",
        )
    return _SCHEMES[scheme](url, folder)
