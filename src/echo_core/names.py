"""What may be a plugin's name: one rule for the manifest, the workshop and the command line."""

import keyword
import re
import sys
import unicodedata
from typing import Final

from echo_core.errors import NameRefused

MAX_LENGTH: Final = 64
_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# Python does not count its own tests among its modules, but `import test` finds them.
_STANDARD: Final = sys.stdlib_module_names | {"test"}
_PLATFORM: Final = frozenset({"echo_core", "common_telemetry", "msgspec", "opentelemetry"})
# What the tests of a plugin, in its own folder, must be able to import by these names.
_TESTING: Final = frozenset({"pytest", "conftest", "tests"})
# Reserved file names on Windows: a library with such a name could not be copied there.
_DEVICES: Final = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
)


def check_name(name: str) -> None:
    """Return if `name` can be a plugin's name; raise `NameRefused`, with a name that can, otherwise."""
    why = _objection(name)
    if why:
        raise NameRefused(name, why=why, suggestion=suggest_name(name))


def suggest_name(name: str) -> str:
    """A valid plugin name as near to `name` as the rule allows."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # "é" without its accent
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", plain)
    words = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    words = re.sub(r"^[0-9_]+", "", words)[:MAX_LENGTH].rstrip("_") or "my_plugin"
    return f"{words}_plugin" if _objection(words) else words  # what is reserved is short


def _objection(name: str) -> str:
    """Why `name` is refused, or an empty string."""
    if not _NAME.fullmatch(name):
        return "a name is lower-case words of letters and digits joined by single underscores, a letter first"
    if len(name) > MAX_LENGTH:
        return f"a name has at most {MAX_LENGTH} characters, this one {len(name)}"
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        return f"{name!r} is a Python keyword"
    if name in _STANDARD:
        return f"{name!r} is a module of the standard library"
    if name in _PLATFORM:
        return f"{name!r} is a package that Echo Core shares with its plugins"
    if name in _TESTING:
        return f"{name!r} would hide what a plugin's tests need"
    if name in _DEVICES:
        return f"{name!r} is a reserved file name on some systems"
    return ""
