"""The waits between attempts."""

from hypothesis import given
from hypothesis import strategies as st

from echo_core.manifest import Delivery
from echo_core.runtime.retry import backoff_s

deliveries = st.builds(
    Delivery,
    backoff_ms=st.integers(1, 86_400_000),
    backoff_max_ms=st.integers(1, 86_400_000),
)


@given(delivery=deliveries, attempt=st.integers(1, 10**6))
def test_a_wait_is_never_negative_and_never_above_the_maximum(delivery: Delivery, attempt: int) -> None:
    assert 0 <= backoff_s(delivery, attempt) <= delivery.backoff_max_ms / 1_000


def test_the_bound_doubles_until_the_maximum() -> None:
    delivery = Delivery(backoff_ms=100, backoff_max_ms=1_000)
    bounds = [backoff_s(delivery, attempt, random_below=lambda high: high) for attempt in range(1, 7)]
    assert bounds == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_wait_is_jittered_over_the_whole_range() -> None:
    delivery = Delivery(backoff_ms=1_000, backoff_max_ms=1_000)
    waits = [backoff_s(delivery, 1) for _ in range(1_000)]
    assert min(waits) < 0.1
    assert max(waits) > 0.9
