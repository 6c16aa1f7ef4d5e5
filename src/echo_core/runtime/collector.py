"""Python's garbage collector in a process that moves messages."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_YOUNG: Final = 10_000
"""Objects made and not freed before the young ones are looked through; Python's own limit is 700."""
_OLDER: Final = 20


@contextmanager
def patient_collector() -> Iterator[None]:
    """Within the block the collector runs seldom, and leaves alone what was there before.

    Messages are freed by their reference counts; cycles are what it is for, and plugins make few. A full
    collection that looks through all modules takes 20 to 30 ms, in which nothing moves.
    """
    before, is_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDER)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not is_frozen:  # else somebody else wants it so
            gc.unfreeze()
