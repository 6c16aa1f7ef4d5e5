"""Node-RED, untraced: three function nodes in a row, in a real Node-RED without its editor (node_red.js).

`make bench` installs it with npm, beside the other peers. Its functions are the same three in JavaScript.
"""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT, job

PACKAGE: Final = ROOT / ".venvs" / "node-red" / "node_modules" / "node-red"
"""Where the Makefile has npm install it."""
_FLOW: Final = Path(__file__).with_suffix(".js")
_POOL: Final = 1_000


def run(task: job.Job) -> None:
    """Hand the messages to Node-RED, and take its tally over."""
    node = shutil.which("node")
    if node is None:
        raise job.NotAvailableError("there is no node")
    if not PACKAGE.is_dir():
        raise job.NotAvailableError("Node-RED is not installed: `make bench` does it where there is npm")
    pool = [segment for segment, _ in zip(task.segments(), range(_POOL), strict=False)]
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as messages:
        json.dump(pool, messages)
        messages.flush()
        done = subprocess.run(
            [node, str(_FLOW), str(PACKAGE), messages.name, str(task.count)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    task.tally.count, task.tally.checksum = found["count"], found["checksum"]
    task.seconds, task.cpu_seconds = found["seconds"], found["cpu_seconds"]
    task.versions = found["versions"]


if __name__ == "__main__":
    job.main(run)
