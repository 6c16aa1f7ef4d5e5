"""Ports of 127.0.0.1 for servers that are not ours."""

import secrets
import socket
from contextlib import suppress
from typing import Final

_FIRST: Final = 20_000
_COUNT: Final = 12_000
"""Below those that the kernel gives to connections: one of them could have the port before its server does,
or while that is being started again."""


def free_port() -> int:
    """A port that nobody listens on at this moment, and that hardly anybody else gets in the next."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)  # `random` gives all processes of a run the same numbers
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
