"""Python's garbage collector in a process that moves messages."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_YOUNG: Final = 10_000
"""Objects made and not freed before the young ones are looked through; Python's own limit is 700."""
_MIDDLE: Final = 1
"""How often the young ones are looked through before those that stayed are too, with the next: some 30,000.

That takes 10 ms. With Python's own share of ten it would be as many times the young ones, in one step.
"""
_OLD: Final = 150
"""How often those are, before all there is: after some four million objects that stayed."""


@contextmanager
def patient_collector() -> Iterator[None]:
    """Within the block the collector runs seldom, and leaves alone what was there before.

    Messages are freed by their reference counts; cycles are what it is for, and plugins make few. A full
    collection that looks through all modules takes 20 to 30 ms, in which nothing moves.
    """
    before, is_frozen = gc.get_threshold(), gc.get_freeze_count() > 0
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not is_frozen:  # else somebody else wants it so
            gc.unfreeze()
