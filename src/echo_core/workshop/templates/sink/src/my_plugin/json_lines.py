"""A file of JSON objects, one a line, that knows what has just been written to it."""

import json
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends objects that have an `id`; one whose id is among the newest `remember` is left out."""

    def __init__(self, path: Path, *, remember: int) -> None:
        self.path = path
        self._remember = remember
        self._ids: dict[str, None] = {}  # the newest last
        self._ends_with_a_line = True

    def prepare(self) -> None:
        """Make the folder, and read the newest ids from the file if there is one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            newest = deque(lines, maxlen=self._remember)
        for line in newest:
            with suppress(ValueError, TypeError, KeyError):  # a line that was cut short, or somebody else's
                self._note(json.loads(line)["id"])
        self._ends_with_a_line = not newest or newest[-1].endswith(b"\n")

    def append(self, item: dict[str, Any]) -> None:
        """Write the object in one go; if that fails half-way, the next one still gets a line of its own."""
        if item["id"] in self._ids:
            return
        line = json.dumps(item, ensure_ascii=False, default=str).encode() + b"\n"
        if not self._ends_with_a_line:
            line = b"\n" + line
        self._ends_with_a_line = False
        with self.path.open("ab") as file:
            file.write(line)
        self._ends_with_a_line = True
        self._note(item["id"])

    def _note(self, item_id: str) -> None:
        self._ids[item_id] = None
        if len(self._ids) > self._remember:
            del self._ids[next(iter(self._ids))]
