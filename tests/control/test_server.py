"""How the control API comes to be where it is looked for."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo_core.control import server
from echo_core.control.door import Address, open_door
from echo_core.testing import async_test
from echo_core.workspace import Workspace


@async_test
async def test_a_disk_that_takes_no_file_is_waited_for_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = [OSError("no space left"), OSError("no space left")]

    @contextlib.contextmanager
    def opening(workspace: Workspace, address: Address) -> Iterator[str]:
        if full:
            raise full.pop()
        with open_door(workspace, address) as token:
            yield token

    monkeypatch.setattr(server, "open_door", opening)
    monkeypatch.setattr(server, "_RETRY_S", 0.0)
    address = Address(pid=1, port=2, version="3")
    with caplog.at_level(logging.ERROR), contextlib.ExitStack() as door:
        assert await server._open_door(door, Workspace(tmp_path), address)
    assert caplog.text.count("no space left") == 1
