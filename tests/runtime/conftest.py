"""What holds for the tests of the host."""

from collections.abc import Iterator

import pytest

from runtime.hosting import WORLDS


@pytest.fixture(autouse=True)
def close_worlds() -> Iterator[None]:
    """Reading the dead letters after a run opens the file again."""
    yield
    while WORLDS:
        WORLDS.pop().dead_letters.close()
