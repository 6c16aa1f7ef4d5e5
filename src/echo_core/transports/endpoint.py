"""Where a broker is and how to get in: the parts of a transport's URL, and its secrets.

    nats://host:4222                          one server
    nats+tls://a:4222,b:4222/?prefix=echo     several, with TLS, and options of the transport's own

A user and a password come from the URL, or from ECHO_CORE_TRANSPORT_USER and
ECHO_CORE_TRANSPORT_PASSWORD, or the password from the file that the option `password_file` or
ECHO_CORE_TRANSPORT_PASSWORD_FILE names. The first of these that says something wins. With TLS the options
`ca`, `cert` and `key` name PEM files: whom to trust instead of the system's authorities, and who we are.
"""

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from echo_core.errors import SettingsError

T = TypeVar("T")

VARIABLE: Final = "ECHO_CORE_TRANSPORT_"
_COMMON: Final = frozenset({"password_file", "ca", "cert", "key"})
_SWITCH: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_WHERE: Final = "host.transport"


class Secret:
    """A text that shows itself to nobody who does not ask: not in a log, an error or a dump."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')" if self._text else "Secret('')"

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A broker's address, taken apart."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    path: str
    """After the host, without slashes: a virtual host, a database; often empty."""
    user: str
    password: Secret
    tls: ssl.SSLContext | None
    options: Mapping[str, str]

    @property
    def public(self) -> str:
        """The URL for people: without user, password and options."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}{'+tls' if self.tls else ''}://{hosts}" + (f"/{self.path}" if self.path else "")

    def text(self, name: str, default: str) -> str:
        """An option as it was written."""
        return self.options.get(name, default)

    def chosen(self, name: str, default: str, *choices: str) -> str:
        """An option that is one of `choices`."""
        value = self.options.get(name, default)
        if value not in choices:
            raise _wrong_option(name, value, f"use one of {', '.join(choices)}")
        return value

    def switch(self, name: str, *, default: bool) -> bool:
        """An option that is yes or no."""
        value = self.options.get(name)
        if value is None:
            return default
        if value.lower() not in _SWITCH:
            raise _wrong_option(name, value, "write yes or no")
        return _SWITCH[value.lower()]

    def number(self, name: str, default: T, kind: Callable[[str], T], *, least: float) -> T:
        """An option that is a number, `least` or more."""
        value = self.options.get(name)
        if value is None:
            return default
        try:
            number = kind(value)
        except ValueError:
            number = None
        if number is None or not least <= float(number) < float("inf"):  # type: ignore[arg-type]
            raise _wrong_option(name, value, f"write a number from {least:g} up")
        return number


def parse_endpoint(
    url: str,
    *,
    port: int,
    options: frozenset[str],
    environ: Mapping[str, str] = os.environ,
) -> Endpoint:
    """Take a transport's URL apart. `port` is the broker's usual one, `options` what the transport knows.

    Raises `SettingsError` for what is malformed or unknown, and for a file that cannot be read.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text has the password
        raise SettingsError(
            "the URL cannot be read", where=_WHERE, fix="write what is no letter or digit in it as %XX"
        ) from None
    scheme, plus, security = parts.scheme.partition("+")
    if plus and security != "tls":
        raise SettingsError(
            f"{parts.scheme!r} is no scheme of a transport",
            where=_WHERE,
            fix=f"write {scheme}:// or {scheme}+tls://",
        )
    told = dict(parse_qsl(parts.query, keep_blank_values=True))
    # A password with one of these is cut off there; its parts would be shown as if they were something else.
    if parts.fragment or "@" in parts.path or any("@" in name for name in told):
        raise SettingsError(
            "the URL has one of / ? # where it may not be",
            where=_WHERE,
            fix="in user and password write them as %2F %3F %23",
        )
    known = options | _COMMON
    for name in told:
        if name not in known:
            raise SettingsError(
                f"{scheme}:// has no option {name!r}",
                where=_WHERE,
                fix=f"its options are {', '.join(sorted(known))}",
            )
    # Split by hand: urlsplit knows one host only, and would tell the password in its own errors.
    userinfo, _, places = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    if not plus and (named := told.keys() & {"ca", "cert", "key"}):
        raise SettingsError(
            f"the option {min(named)!r} is for TLS", where=_WHERE, fix=f"write {scheme}+tls://"
        )
    return Endpoint(
        scheme=scheme,
        hosts=tuple(_host(place, port) for place in (places or "127.0.0.1").split(",")),
        path=unquote(parts.path.strip("/")),
        user=unquote(user) or environ.get(f"{VARIABLE}USER", ""),
        password=_password(unquote(password), told, environ),
        tls=_tls(told) if plus else None,
        options=told,
    )


def _host(place: str, port: int) -> tuple[str, int]:
    host, separator, given = place.rpartition(":") if not place.endswith("]") else (place, "", "")
    if not separator:
        host, given = place, str(port)
    if not given.isdigit() or not 0 < int(given) < 65_536:
        # Not what was given: without a host before it, it is a password.
        raise SettingsError(
            "what follows the host is no port", where=f"{_WHERE}, {host!r}", fix=f"write {host}:{port}"
        )
    return host.strip("[]") or "127.0.0.1", int(given)


def _password(written: str, told: Mapping[str, str], environ: Mapping[str, str]) -> Secret:
    if written or (written := environ.get(f"{VARIABLE}PASSWORD", "")):
        return Secret(written)
    file = told.get("password_file") or environ.get(f"{VARIABLE}PASSWORD_FILE", "")
    return Secret(read_secret(file)) if file else Secret("")


def read_secret(file: str) -> str:
    """The text of a file with a secret, without the line end that editors add; raises `SettingsError`."""
    try:
        return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError(
            "a file with a secret cannot be read", where=file, why=why or str(error)
        ) from None


def _tls(told: Mapping[str, str]) -> ssl.SSLContext:
    """Verified always: against the system's authorities, or those in the file `ca`."""
    try:
        context = ssl.create_default_context(cafile=told.get("ca") or None)
        if told.get("cert"):
            context.load_cert_chain(told["cert"], told.get("key") or None)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{name}={told[name]}" for name in ("ca", "cert", "key") if told.get(name))
        raise SettingsError(
            "TLS cannot be set up", where=f"{_WHERE}, {files}", why=error.strerror or str(error)
        ) from None
    return context


def _wrong_option(name: str, value: str, fix: str) -> SettingsError:
    return SettingsError(f"the option {name}={value} is wrong", where=_WHERE, fix=fix)
