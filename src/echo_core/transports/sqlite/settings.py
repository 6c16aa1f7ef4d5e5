"""What `sqlite://` URLs say.

sqlite://                               messages.sqlite in the workspace's state folder
sqlite://data/messages.sqlite           a file; relative paths begin at the workspace
sqlite:///var/lib/echo/messages.sqlite  an absolute path
sqlite://?synchronous=normal&retain=7d  settings, after the path
"""

import os
import re
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, unquote

import msgspec

from echo_core.errors import SettingsError

DEFAULT_FILE: Final = "core/state/messages.sqlite"
Synchronous = Literal["full", "normal"]

_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES: Final = {"": 1, "KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)")


class StoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One store, and what it promises."""

    path: Path
    synchronous: Synchronous = "full"
    """`full`: accepted messages survive the end of the machine; `normal`: the end of the process."""
    retain_s: float = 0.0
    """How long messages are kept after everybody has settled them."""
    retain_bytes: int = 1_000_000_000
    """While the store is larger than this, settled messages go before `retain_s` is over."""
    max_bytes: int = 0
    """A store this large refuses publications (`QueueFull`); 0 is no bound but the disk's."""
    lease_s: float = 10.0
    """A host that has shown no life for so long loses what it holds to the others."""
    busy_s: float = 10.0
    """How long to wait while another program holds the file's lock."""


def settings_from_url(url: str, folder: Path | None = None) -> StoreSettings:
    """What the URL says; raises `SettingsError` with the option and its fault.

    `folder` is where relative paths begin; without it, the working directory.
    """
    rest = url.partition("://")[2]
    path, _, query = rest.partition("?")
    values: dict[str, object] = {}
    for option, text in parse_qsl(query, keep_blank_values=True):
        if option not in _OPTIONS:
            raise _wrong(url, f"{option!r} is no option", f"use one of {', '.join(_OPTIONS)}")
        field, read = _OPTIONS[option]
        values[field] = read(url, option, text)
    # SQLite keeps the log beside the file that a link leads to; what hosts keep there must lie beside it too.
    file = os.path.realpath((folder or Path.cwd()) / (unquote(path) or DEFAULT_FILE))
    return msgspec.structs.replace(StoreSettings(path=Path(file)), **values)


def _synchronous(url: str, option: str, text: str) -> Synchronous:
    if text not in ("full", "normal"):
        raise _wrong(url, f"{option}={text}", f"{option}=full, or {option}=normal")
    return cast(Synchronous, text)


def _duration(url: str, option: str, text: str) -> float:
    return _quantity(url, option, text, _SECONDS, "90s, 15m, 12h or 7d")


def _positive_duration(url: str, option: str, text: str) -> float:
    seconds = _duration(url, option, text)
    if not seconds:
        raise _wrong(url, f"{option}={text} leaves no time", f"{option}=10s")
    return seconds


def _size(url: str, option: str, text: str) -> int:
    return int(_quantity(url, option, text, _BYTES, "500MB or 20GB"))


def _quantity(url: str, option: str, text: str, units: dict[str, float] | dict[str, int], like: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise _wrong(url, f"{option}={text}", f"write it like {like}")
    return float(match[1]) * units[match[2]]


_OPTIONS: Final = {
    "synchronous": ("synchronous", _synchronous),
    "retain": ("retain_s", _duration),
    "retain_size": ("retain_bytes", _size),
    "max_size": ("max_bytes", _size),
    "lease": ("lease_s", _positive_duration),
    "busy": ("busy_s", _positive_duration),
}


def _wrong(url: str, why: str, fix: str) -> SettingsError:
    return SettingsError(f"{url!r} cannot be used", where="host.transport", why=why, fix=fix)
