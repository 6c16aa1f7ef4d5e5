"""From a file's bytes to its text and format; what is no transcript is refused with the reason."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from echo_core import PluginError
from transcript_source.jsonlines import read_json_lines
from transcript_source.subtitles import looks_like_times, read_subrip, read_webvtt

Entry = dict[str, Any]
"""One segment, word or fault, as the file says it: `start`, `end`, `text` …, or `raw`, `fault`, `line`."""

# UTF-32 before UTF-16: the little-endian mark of the one begins with that of the other.
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LAST_RESORT: Final = "cp1252"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f]")
_WEBVTT: Final = re.compile(r"WEBVTT(?=[ \t\n]|$)")


class Transcript(NamedTuple):
    """What is in the file."""

    kind: str
    """`webvtt`, `subrip` or `jsonlines`."""
    encoding: str
    language: str
    """What the header says; empty if it does not."""
    entries: list[Entry]
    """In the order of the file."""


def read_transcript(path: Path, *, encoding: str = "", max_bytes: int) -> Transcript:
    """The transcript in the file.

    The content decides the format, not the name. Raises `PluginError` for a file that is missing,
    unreadable, too large, empty, binary, or in none of the three formats.
    """
    text, encoding = decode(_bytes(path, max_bytes), path, encoding)
    if not text.strip():
        raise _refusal(path, "it is empty", "name a transcript with something in it")
    kind = sniff(text)
    if kind is None:
        raise _refusal(
            path,
            f"it begins with {text.strip()[:40]!r}, which is neither WebVTT, SubRip nor JSON Lines",
            "WebVTT begins with WEBVTT, SubRip has times like 00:00:01,000 --> 00:00:02,000, "
            "JSON Lines one JSON object a line",
        )
    language = _header_language(text) if kind == "webvtt" else ""
    return Transcript(kind, encoding, language, list(_READERS[kind](text)))


def sniff(text: str) -> str | None:
    """`webvtt`, `subrip` or `jsonlines`, by what is in the text; None when it is none of them."""
    if _WEBVTT.match(text):
        return "webvtt"
    lines = [line for line in text.split("\n") if line.strip()]
    if any(looks_like_times(line) for line in lines[:3]):
        return "subrip"  # and not JSON Lines, even if somebody in it reads out JSON
    if any(_is_json_object(line) for line in lines):
        return "jsonlines"
    return "subrip" if any(looks_like_times(line) for line in lines) else None


def _is_json_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def decode(raw: bytes, path: Path, encoding: str = "") -> tuple[str, str]:
    r"""The text, without byte-order mark and with `\n` for every line end, and what it was encoded in.

    Without `encoding` and without a mark it is UTF-8 or, failing that, Windows-1252, which is what
    most old subtitle files are written in.
    """
    marked = next((name for mark, name in _MARKS if raw.startswith(mark)), "")
    candidates = [encoding] if encoding else [marked] if marked else ["utf-8", LAST_RESORT]
    for candidate in candidates:
        text = _decoded(raw, candidate, path)
        if text is not None and not _CONTROL.search(text):
            text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
            return text, candidate
    shown = f"not text in {encoding or marked}" if encoding or marked else "binary, not text"
    raise _refusal(
        path, f"it is {shown}", "name a text file, UTF-8 at best; set encoding if it is written in another"
    )


def _decoded(raw: bytes, encoding: str, path: Path) -> str | None:
    """The text, or None if the bytes are none in this encoding."""
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None
    except LookupError as error:
        fix = "use one like cp1250, or leave it empty"
        raise _refusal(path, f"Python knows no encoding {encoding!r}", fix) from error


def _bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _refusal(path, f"it has {size} bytes, more than max_bytes ({max_bytes})", "raise max_bytes")
        return path.read_bytes()
    except OSError as error:
        raise _refusal(path, error.strerror or str(error), "set path to a readable file") from error


def _header_language(text: str) -> str:
    """`de`, if the WebVTT header has a line `Language: de`."""
    header = text.partition("\n\n")[0]
    found = re.search(r"^Language:[ \t]*([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)[ \t]*$", header, re.MULTILINE)
    return found.group(1) if found else ""


def _refusal(path: Path, why: str, fix: str) -> PluginError:
    return PluginError("the transcript cannot be read", where=str(path), why=why, fix=fix)


_READERS: Final[dict[str, Callable[[str], Iterator[Entry]]]] = {
    "webvtt": read_webvtt,
    "subrip": read_subrip,
    "jsonlines": read_json_lines,
}
