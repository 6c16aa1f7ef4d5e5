"""One WebVTT file that grows, and the journal that keeps it from losing a caption."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from webvtt_sink.webvtt import Cue, cue_of, identifier, read_cues, render

_UNSAFE: Final = re.compile(r"[^\w. -]+")
_EDITIONS: Final = 100
"""Earlier editions that are remembered."""
_SHARE: Final = 20
"""1 in so many captions of a file is new before it is written anew: a long one would cost its square."""


class CaptionFile:
    """The captions of one transcript in one language.

    Each caption is appended to a journal beside the file (`….vtt.journal`) before `add` returns; the
    file itself is made anew from all captions and replaced in one step, now and then and at the end.
    So a process that dies loses nothing: the next one begins with what the journal holds. When the
    transcript is complete the journal is removed. Where captions have an edition, a mark beside the file
    (`.….vtt.edition`) says which is the file's, so that what comes again finds itself in it, and which were
    the earlier ones, of which no more is taken.
    """

    def __init__(
        self,
        path: Path,
        *,
        every: int,
        at_least_every_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take up the journal if there is one; nothing is written yet."""
        self.path = path
        self._journal_path = path.with_name(path.name + ".journal")
        self._mark_path = path.with_name(f".{path.name}.edition")
        self._every = every
        self._at_least_every_s = at_least_every_s
        self._monotonic = monotonic
        self._written_at = monotonic()
        self._is_complete = False
        self._editions = self._read_mark()
        self._cues: dict[str, Cue] = {}
        if self._editions:
            self._cues = self._read_file()
        journal = [line for line in self._read_journal() if self._is_current(line[1].get("edition", ""))]
        self._cues.update((identifier(key), cue_of(caption)) for key, caption in journal)
        self._unwritten = len(journal)

    def _is_current(self, edition: str) -> bool:
        return not edition or edition == (self._editions[-1] if self._editions else "")

    def belongs(self, edition: str) -> bool:
        """Whether captions of this edition go into the file; one that was not there before begins it anew."""
        if self._is_current(edition):
            return True
        if edition in self._editions:
            return False
        # The mark comes first: from then on neither the file nor the journal is the edition's.
        self._mark([*self._editions, edition][-_EDITIONS:], is_complete=False)
        self._journal_path.unlink(missing_ok=True)
        self._cues = {}
        return True

    def add(self, key: str, caption: dict[str, Any]) -> None:
        """Keep the caption; one with the same key replaces the earlier one."""
        key, cue = identifier(key), cue_of(caption)
        if self._cues.get(key) == cue:
            return
        with self._journal_path.open("a", encoding="utf-8") as journal:
            # The line break comes first, so a line that a dying process left unfinished spoils no other.
            journal.write("\n" + json.dumps([key, caption], ensure_ascii=False))
        self._cues[key] = cue
        self._unwritten += 1
        is_time = self._monotonic() - self._written_at >= self._at_least_every_s
        if is_time or self._unwritten >= max(self._every, len(self._cues) // _SHARE):
            self.write()

    def write(self) -> None:
        """Bring the file up to date."""
        if self._unwritten:
            self._replace(self.path, render(self._cues.values()))
            self._unwritten = 0
        self._written_at = self._monotonic()

    def complete(self) -> None:
        """Nothing more comes: write the file, and remove the journal."""
        self.write()
        if self._editions and self._cues:
            self._mark(self._editions, is_complete=True)
        self._journal_path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._cues)

    def _read_journal(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._journal_path.is_file():
            return
        for line in self._journal_path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                key, caption = json.loads(line)
            except ValueError:
                continue  # the end of a line that was being written when the process died; it comes again
            yield key, caption

    def _mark(self, editions: list[str], *, is_complete: bool) -> None:
        self._editions = editions
        self._replace(self._mark_path, json.dumps({"editions": editions, "complete": is_complete}))

    def _read_mark(self) -> list[str]:
        """The editions there were, the file's last."""
        try:
            mark = json.loads(self._mark_path.read_text(encoding="utf-8"))
            self._is_complete = bool(mark["complete"])
            return [str(edition) for edition in mark["editions"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _read_file(self) -> dict[str, Cue]:
        """What is in the file, if it was completed with the edition that it has."""
        if not self._is_complete:
            return {}
        try:
            return read_cues(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return {}

    def _replace(self, path: Path, text: str) -> None:
        """Write it: readers see the old one or the new one, never a part."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)


def file_name(transcript: str, language: str) -> str:
    """`<transcript>.<language>.vtt`, with nothing in it that could lead out of the folder."""
    transcript, language = (_UNSAFE.sub("_", name).strip(". ") for name in (transcript, language))
    return f"{transcript[:200] or 'captions'}.{language[:40] or 'und'}.vtt"
