"""How long to wait before the next attempt.

Full jitter: a random time below a bound that doubles with every attempt ("Exponential Backoff And
Jitter", AWS Architecture Blog), so that what failed together does not come back together.
"""

import random
from collections.abc import Callable

from echo_core.manifest import Delivery


def backoff_s(
    delivery: Delivery, attempt: int, random_below: Callable[[float], float] | None = None
) -> float:
    """Seconds to wait after failed attempt number `attempt` (1 is the first), never more than the maximum."""
    exponent = min(attempt - 1, 62)  # beyond that the bound is the maximum anyway, and floats stay exact
    bound = min(delivery.backoff_max_ms, delivery.backoff_ms * 2**exponent) / 1_000
    draw = random_below or (lambda high: random.uniform(0.0, high))  # noqa: S311  (no secret)
    return draw(bound)
