"""A real nats-server on a free loopback port, as long as the context lasts."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_READY_S: Final = 10.0


def find() -> str | None:
    """The server's program: the one installed beside this Python, or the one on PATH."""
    return shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")


def installed_version() -> str:
    """What `nats-server --version` says; empty where there is none."""
    program = find()
    if program is None:
        return ""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return said.rpartition(" ")[2].strip().removeprefix("v")


@contextmanager
def running() -> Iterator[str | None]:
    """Its URL; None where there is no nats-server."""
    program = find()
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            # JetStream is for those who ask for it; core NATS, on which FastStream runs, is none the slower.
            [
                program,
                "--addr",
                "127.0.0.1",
                "--port",
                "-1",
                "--ports_file_dir",
                folder,
                "-js",
                "-sd",
                folder,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield _url(Path(folder), process)
        finally:
            process.terminate()
            process.wait()


def _url(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """Where it listens, once it does; it writes that into a file."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and process.poll() is None:
        for file in folder.glob("*.ports"):
            text = file.read_text()
            if text:
                return str(json.loads(text)["nats"][0])
        time.sleep(0.02)
    raise RuntimeError(f"nats-server did not start within {_READY_S:g} s; exit code {process.poll()}")
