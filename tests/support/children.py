"""The processes that this one has started and not seen off yet."""

import contextlib
import os
from pathlib import Path


def children() -> set[int]:
    """Their ids, with those that have ended and wait to be reaped; servers of the tests are there too."""
    found, own = set(), os.getpid()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1]) == own:
                    found.add(int(entry.name))
    return found
