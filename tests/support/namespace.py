"""A network namespace that is joined to this machine by one cable, which can be pulled."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

_NUMBERS: Final = itertools.count(os.getpid() % 200)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Namespace:
    """Programs that are started with `prefix` see this machine at `address`, as long as the cable is in."""

    def __init__(self, name: str, number: int) -> None:
        self.prefix: Final = ["ip", "netns", "exec", name]
        self.address: Final = f"10.231.{number % 250}.1"
        self._cable = f"ec{number}a"
        self._name = name

    def pull(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        _ip("link", "set", self._cable, "down")

    def plug(self) -> None:
        """As before."""
        _ip("link", "set", self._cable, "up")


@contextmanager
def namespace() -> Iterator[Namespace]:
    """For as long as the context lasts; needs root."""
    number = next(_NUMBERS)
    name = f"echo-core-{os.getpid()}-{number}"
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace")
    try:
        _ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    made = Namespace(name, number)
    here, there = f"ec{number}a", f"ec{number}b"
    try:
        _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        _ip("addr", "add", f"{made.address}/24", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", name, "addr", "add", f"{made.address.rpartition('.')[0]}.2/24", "dev", there)
        _ip("-n", name, "link", "set", there, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
