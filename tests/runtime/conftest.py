"""What holds for the tests of the host."""

from collections.abc import Iterator

import pytest

from runtime.hosting import WORLDS


@pytest.fixture(autouse=True)
def close_worlds() -> Iterator[None]:
    """Reading what a run has kept opens the file again."""
    yield
    while WORLDS:
        world = WORLDS.pop()
        world.dead_letters.close()
        world.checkpoints.close()
