"""Opens a transport from its URL. A new transport is one line here."""

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from echo_core.errors import SettingsError
from echo_core.transports.base import Transport
from echo_core.transports.memory import MemoryTransport

_SCHEMES: Final[dict[str, Callable[[str], Transport]]] = {
    "memory": lambda url: MemoryTransport(),
}


def transport_for(url: str) -> Transport:
    """The transport that `url` names, not yet open; raises `SettingsError` for an unknown scheme."""
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"no transport for {scheme or url!r}",
            where="host.transport",
            fix=f"use one of {', '.join(f'{known}://' for known in _SCHEMES)}",
        )
    return _SCHEMES[scheme](url)
