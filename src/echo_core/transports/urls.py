"""Opens a transport from its URL. A new transport is one line here."""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from echo_core.errors import SettingsError
from echo_core.transports.base import Transport
from echo_core.transports.local import LocalTransport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.sqlite.transport import open_from_url

_Open = Callable[[str, Path | None], Transport]


def _of_extra(name: str) -> _Open:
    """The transport of `transports/<name>.py`, whose client library is the extra of that name."""

    def open_transport(url: str, folder: Path | None) -> Transport:
        try:
            module = importlib.import_module(f"echo_core.transports.{name}")
        except ModuleNotFoundError as error:
            raise SettingsError(
                f"{name}:// needs a library that is not installed",
                where="host.transport",
                why=f"there is no module {error.name}",
                fix=f"pip install 'echo-core[{name}]'",
            ) from error
        transport: Transport = getattr(module, f"open_{name}")(url)
        return transport

    return open_transport


_SCHEMES: Final[dict[str, _Open]] = {
    "memory": lambda url, folder: MemoryTransport(),
    "sqlite": open_from_url,
    "nats": _of_extra("nats"),
    "redis": _of_extra("redis"),
    "amqp": _of_extra("amqp"),
    "kafka": _of_extra("kafka"),
}


def transport_for(url: str, folder: Path | None = None, local: Sequence[str] = ()) -> Transport:
    """The transport that `url` names, not yet open; raises `SettingsError` for an unknown scheme.

    Relative paths in the URL begin at `folder`. What is published to topics that one of the patterns `local`
    means stays in this process.
    """
    before, colon, _ = url.partition(":")
    scheme = before.lower().removesuffix("+tls") if colon else ""
    if scheme not in _SCHEMES:
        raise SettingsError(
            f"no transport for {scheme or 'a URL without a scheme'}",
            where="host.transport",
            fix=f"use one of {', '.join(f'{known}://' for known in _SCHEMES)}",
        )
    transport = _SCHEMES[scheme](url, folder)
    return LocalTransport(transport, local) if local and scheme != "memory" else transport


def without_secrets(url: str) -> str:
    """The URL for people: without user, password and options."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2].partition("?")[0]
