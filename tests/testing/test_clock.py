import asyncio

import pytest

from echo_core.runtime.clock import Clock, SystemClock
from echo_core.testing import ManualClock, async_test


def as_clock(clock: Clock) -> Clock:
    """For the type checker: both kinds are clocks."""
    return clock


async def tick(clock: Clock, seconds: float, times: list[float]) -> None:
    while True:
        await clock.sleep(seconds)
        times.append(clock.monotonic())


@async_test
async def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(start=100)
    sleeping = asyncio.create_task(clock.sleep(5))
    await clock.advance(4.9)
    assert not sleeping.done()
    assert clock.sleepers == 1
    await clock.advance(0.2)
    assert sleeping.done()
    assert clock.monotonic() == pytest.approx(105.1)
    assert clock.sleepers == 0


@async_test
async def test_sleepers_wake_in_order_and_see_their_own_moment() -> None:
    clock = ManualClock()
    times: list[float] = []
    tickers = [asyncio.create_task(tick(as_clock(clock), seconds, times)) for seconds in (3, 2)]
    await clock.advance(6)
    assert times == [2, 3, 4, 6, 6]
    for ticker in tickers:
        ticker.cancel()


@async_test
async def test_a_cancelled_sleeper_does_not_keep_the_others_from_waking() -> None:
    clock = ManualClock()
    cancelled, kept = asyncio.create_task(clock.sleep(1)), asyncio.create_task(clock.sleep(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    await clock.advance(2)
    assert cancelled.cancelled()
    assert kept.done()


@async_test
async def test_sleeping_for_nothing_returns_without_an_advance() -> None:
    await ManualClock().sleep(0)


@async_test
async def test_the_system_clock_sleeps_at_least_as_long_as_told() -> None:
    clock = as_clock(SystemClock())
    before = clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.009


@async_test
async def test_whoever_sleeps_until_a_moment_gets_there_though_rounding_eats_what_is_left() -> None:
    clock, until = ManualClock(start=1e16), 1e16 + 2

    async def wait() -> None:
        while clock.monotonic() < until:
            await clock.sleep(0.5)  # which, added to the time, changes nothing

    waiting = asyncio.create_task(wait())
    await clock.advance(4)
    assert waiting.done()
