"""What became of a plugin's messages, as numbers that only go up, and how many are under way."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class Account(NamedTuple):
    """The books of one plugin at one moment, in messages.

    They balance: consumed = processed + filtered + dead_lettered + returned + in_hand. All but the last two
    are totals and never go down.
    """

    consumed: int = 0
    """Handed to the plugin; one that was returned counts again when it is handed over again."""
    returned: int = 0
    """Given back to the queue without an end."""
    processed: int = 0
    filtered: int = 0
    dead_lettered: int = 0
    shed: int = 0
    """Given up before they were consumed."""
    published: int = 0
    in_hand: int = 0
    """Consumed, and neither ended nor returned."""
    waiting: int = 0
    """Published for the plugin, and not consumed."""


ReadAccount: TypeAlias = Callable[[], Account | None]
"""Reads an account, in the thread that exports and before each export; None: the last one still holds."""
