"""One WebVTT file that grows, and the journal that keeps it from losing a caption."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from webvtt_sink.webvtt import render

_UNSAFE: Final = re.compile(r"[^\w. -]+")
_SHARE: Final = 20
"""1 in so many captions of a file is new before it is written anew: a long one would cost its square."""


class CaptionFile:
    """The captions of one transcript in one language.

    Each caption is appended to a journal beside the file (`….vtt.journal`) before `add` returns; the
    file itself is made anew from all captions and replaced in one step, now and then and at the end.
    So a process that dies loses nothing: the next one begins with what the journal holds. When the
    transcript is complete the journal is removed.
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
        self._every = every
        self._at_least_every_s = at_least_every_s
        self._monotonic = monotonic
        self._written_at = monotonic()
        self._captions: dict[str, dict[str, Any]] = dict(self._read_journal())
        self._unwritten = len(self._captions)

    def add(self, key: str, caption: dict[str, Any]) -> None:
        """Keep the caption; one with the same key replaces the earlier one."""
        if self._captions.get(key) == caption:
            return
        with self._journal_path.open("a", encoding="utf-8") as journal:
            # The line break comes first, so a line that a dying process left unfinished spoils no other.
            journal.write("\n" + json.dumps([key, caption], ensure_ascii=False))
        self._captions[key] = caption
        self._unwritten += 1
        is_time = self._monotonic() - self._written_at >= self._at_least_every_s
        if is_time or self._unwritten >= max(self._every, len(self._captions) // _SHARE):
            self.write()

    def write(self) -> None:
        """Bring the file up to date: readers see the old one or the new one, never a part."""
        if self._unwritten:
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            temporary.write_text(render(self._captions.values()), encoding="utf-8", newline="\n")
            temporary.replace(self.path)
            self._unwritten = 0
        self._written_at = self._monotonic()

    def complete(self) -> None:
        """Nothing more comes: write the file, and remove the journal."""
        self.write()
        self._journal_path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._captions)

    def _read_journal(self) -> Iterator[tuple[str, dict[str, Any]]]:
        if not self._journal_path.is_file():
            return
        for line in self._journal_path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                key, caption = json.loads(line)
            except ValueError:
                continue  # the end of a line that was being written when the process died; it comes again
            yield key, caption


def file_name(transcript: str, language: str) -> str:
    """`<transcript>.<language>.vtt`, with nothing in it that could lead out of the folder."""
    transcript, language = (_UNSAFE.sub("_", name).strip(". ") for name in (transcript, language))
    return f"{transcript[:200] or 'captions'}.{language[:40] or 'und'}.vtt"
