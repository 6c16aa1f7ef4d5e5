"""A host in a process of its own, again and again: what the tests kill."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

VICTIM = Path(__file__).with_name("victim.py")


class Lives:
    """A host in a process of its own, again and again."""

    def __init__(self, folder: Path, preload: Path | None = None) -> None:
        """`preload` is a library that is loaded before all others."""
        with (folder / "victim.log").open("w") as log:  # a pipe that nobody reads would hold it up
            self._process = subprocess.Popen(
                [sys.executable, str(VICTIM), str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | ({} if preload is None else {"LD_PRELOAD": str(preload)}),
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout

    def begin(self, how: str = "go on") -> int:
        """The process id of a new life."""
        print(how, file=self._to, flush=True)
        return int(self._from.readline())

    def ended(self) -> int:
        """How it ended: an exit code, or minus the signal's number."""
        return int(self._from.readline())

    def close(self) -> None:
        """End it, and the one that it is."""
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def lives_in(folder: Path, preload: Path | None = None) -> Iterator[Lives]:
    """Lives whose files are in the folder."""
    lives = Lives(folder, preload)
    try:
        yield lives
    finally:
        lives.close()
