"""How a version is to take another one's place."""

import math
from typing import Literal

import msgspec

from echo_core.errors import BadRequest

Strategy = Literal["graceful", "immediate", "canary", "blue-green", "shadow"]


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator asks for.

    graceful: the old version ends what it has in hand, then the new one gets all.
    immediate: the same, but what the old one has in hand is cancelled, and handled again by the new one.
    canary: the new version gets a part of the messages, and is judged by how it does.
    blue-green: both stay ready; one gets all, and the other can take over at once.
    shadow: the new version gets copies and publishes nothing; what it would have published is compared.
    """

    strategy: Strategy = "graceful"
    percent: float = 10.0
    """canary: the part of the ordering keys that the new version gets."""
    steps: tuple[float, ...] = ()
    """canary: the parts after that, each when the one before has stood for long enough; 100 is to promote."""
    step_messages: int = 500
    """canary: a step has stood when the new version has ended so many messages in it …"""
    step_s: float = 10.0
    """… and so many seconds have passed."""
    minimum: int = 50
    """canary: no verdict before the new version has been given so many messages, but by what it fails at."""
    timeout_s: float = 3_600.0
    """canary, blue-green, shadow: after this the old version gets all again, and the new one goes."""

    def check(self) -> None:
        """Raise `BadRequest` for numbers that make no sense."""
        shares = (self.percent, *self.steps)
        if not all(0 < share <= 100 for share in shares) or list(shares) != sorted(set(shares)):
            raise BadRequest(
                "percent and steps must grow, above 0 and up to 100",
                why=f"they are {', '.join(map(str, shares))}",
            )
        if not (0 < self.timeout_s < math.inf and 0 <= self.step_s < math.inf):
            raise BadRequest("timeout_s and step_s must be seconds")
        if self.minimum < 1 or self.step_messages < 1:
            raise BadRequest("minimum and step_messages must be 1 or more")
