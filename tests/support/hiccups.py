"""Runs a command as on a machine with hiccups: it, or something it has started, stands still for moments.

`python tests/support/hiccups.py COMMAND ...`. A test that fails for it takes a busy machine for a fault, or
has found a race. Linux alone: the kernel tells who has started whom.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

LONGEST_S = 0.7


def started_by(pid: int) -> list[int]:
    """The processes that the main thread of this one has started."""
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def stands_still(pid: int) -> bool:
    """Whether it has ended or was stopped, which some tests do themselves."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "TtXZ"
    except OSError:
        return True


def hiccup(pid: int) -> None:
    """Stop this process, or now and then one that it has started, for a moment."""
    others = started_by(pid)
    chosen = random.choice(others) if others and random.random() < 0.3 else pid
    if stands_still(chosen):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(chosen, signal.SIGSTOP)
        time.sleep(random.choice((0.01, 0.05, 0.1, 0.2, LONGEST_S)) * random.uniform(0.5, 1.0))
        os.kill(chosen, signal.SIGCONT)


def main() -> int:
    """The command's exit code."""
    command = subprocess.Popen(sys.argv[1:])
    while command.poll() is None:
        time.sleep(random.uniform(0.02, 0.6))
        hiccup(command.pid)
    return command.returncode


if __name__ == "__main__":
    sys.exit(main())
