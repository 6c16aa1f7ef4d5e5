"""From a file's bytes to its text and format; what is no transcript is refused with the reason."""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

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
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x19\x1b-\x1f]")
_WEBVTT: Final = re.compile(r"WEBVTT(?=[ \t\n]|$)")


def read_transcript(path: Path, *, encoding: str = "", max_bytes: int) -> tuple[str, Entry, list[Entry]]:
    """The file's format, what its header says of every entry (`language`), and its entries in file order.

    The content decides the format, not the name. Raises `PluginError` for a file that is missing,
    unreadable, too large, empty, binary, or in none of the three formats.
    """
    text = decode(_bytes(path, max_bytes), path, encoding)
    if not text.strip():
        _refuse(path, "it is empty", "name a transcript with something in it")
    kind = sniff(text)
    if kind is None:
        _refuse(
            path,
            f"it begins with {text.strip()[:40]!r}, which is neither WebVTT, SubRip nor JSON Lines",
            "WebVTT begins with WEBVTT, SubRip has times like 00:00:01,000 --> 00:00:02,000, "
            "JSON Lines one JSON object a line",
        )
    header = _webvtt_header(text) if kind == "webvtt" else {}
    return kind, header, list(_READERS[kind](text))


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


def decode(raw: bytes, path: Path, encoding: str = "") -> str:
    r"""The text, without byte-order mark and with `\n` for every line end.

    Without `encoding` and without a mark it is UTF-8 or, failing that, Windows-1252, which is what
    most old subtitle files are written in.
    """
    marked = next((name for mark, name in _MARKS if raw.startswith(mark)), "")
    candidates = [encoding] if encoding else [marked] if marked else ["utf-8", "cp1252"]
    for candidate in candidates:
        try:
            text = raw.decode(candidate)
        except UnicodeDecodeError:
            continue
        except LookupError:
            _refuse(
                path,
                f"{encoding!r} is no encoding that Python knows",
                "use one like cp1250, or leave it empty",
            )
        if _CONTROL.search(text):
            break
        return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    shown = f"not text in {encoding or marked}" if encoding or marked else "binary, not text"
    _refuse(
        path, f"it is {shown}", "name a text file, UTF-8 at best; set encoding if it is written in another"
    )


def _bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            _refuse(path, f"it has {size} bytes, more than max_bytes ({max_bytes})", "raise max_bytes")
        return path.read_bytes()
    except OSError as error:
        _refuse(path, error.strerror or str(error), "set path to a readable file")


def _webvtt_header(text: str) -> Entry:
    """What the header says of all cues: `Language: de`, the only line of it that matters here."""
    header = text.partition("\n\n")[0]
    found = re.search(r"^Language:[ \t]*([A-Za-z0-9-]+)[ \t]*$", header, re.MULTILINE)
    return {"language": found.group(1)} if found else {}


def _refuse(path: Path, why: str, fix: str) -> NoReturn:
    raise PluginError("the transcript cannot be read", where=str(path), why=why, fix=fix)


_READERS: Final[dict[str, Callable[[str], Iterator[Entry]]]] = {
    "webvtt": read_webvtt,
    "subrip": read_subrip,
    "jsonlines": read_json_lines,
}
