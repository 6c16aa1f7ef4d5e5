"""The statistics of a canary, against slow and obvious twins."""

import math
import random
from types import SimpleNamespace
from typing import Any, cast
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.manifest import Delivery
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import Statistics
from echo_core.runtime.upgrade import verdict
from echo_core.runtime.upgrade.plan import Plan
from echo_core.runtime.upgrade.splitter import part_of
from echo_core.runtime.upgrade.trial import Trial
from echo_core.runtime.upgrade.verdict import Failures, Tally, binomial_tail, hypergeometric_tail
from runtime.canaries import Fails, canary

SMALL = st.integers(0, 30)


def tally(
    ended: int = 0, failed: int = 0, published: int | None = None, refused: int = 0, took: float = 0.001
) -> Tally:
    said = ended if published is None else published
    return Tally(ended, ended, ended, failed, said, refused, [took] * min(ended, 1_000))


def why_worse(old: Tally, new: Tally, look: int) -> str:
    failures = Failures()
    for part in range(new.failed):
        failures.add(part)
    return failures.why_worse(old, new) or verdict.why_worse(old, new, look)


@given(found=SMALL, tries=SMALL, p=st.floats(0, 1))
def test_the_binomial_tail_is_the_sum_of_its_terms(found: int, tries: int, p: float) -> None:
    terms = (math.comb(tries, k) * p**k * (1 - p) ** (tries - k) for k in range(found, tries + 1))
    assert binomial_tail(found, tries, p) == pytest.approx(min(1.0, sum(terms)), rel=1e-6, abs=1e-12)


@given(data=st.data(), total=st.integers(1, 40))
def test_the_hypergeometric_tail_is_the_sum_of_its_terms(data: st.DataObject, total: int) -> None:
    drawn, marked = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    found = data.draw(st.integers(0, min(drawn, marked)))
    ways = sum(
        math.comb(marked, k) * math.comb(total - marked, drawn - k)
        for k in range(found, min(drawn, marked) + 1)
        if drawn - k <= total - marked
    )
    expected = ways / math.comb(total, drawn)
    assert hypergeometric_tail(found, drawn, marked, total) == pytest.approx(expected, rel=1e-6)


def test_large_counts_are_no_trouble() -> None:
    assert hypergeometric_tail(2_000, 10_000, 10_000, 1_000_000) == pytest.approx(0, abs=1e-9)
    assert binomial_tail(100_500, 1_000_000, 0.1) == pytest.approx(0.048, abs=0.002)


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (tally(50, failed=12), "12 of 50 messages failed at the first attempt, against 0 of 450"),
        (tally(50, refused=1), "published outside its publications, 1 time(s)"),
        (tally(50, took=0.02), "50 of 50 messages took longer than 2 ms"),
        (tally(50, published=0), "it published 0 for each message that went well, against 1"),
        (tally(50, published=150), "it published 3 for each message that went well"),
    ],
)
def test_a_version_that_does_worse_is_told_why(new: Tally, said: str) -> None:
    assert said in why_worse(tally(450), new, 1)


@pytest.mark.parametrize(
    "new",
    [
        tally(50),
        tally(50, failed=1),
        tally(50, took=0.0014),
        tally(50, published=55),
        tally(50, published=45),
    ],
)
def test_a_little_worse_is_not_proved(new: Tally) -> None:
    assert why_worse(tally(450), new, 1) == ""


@pytest.mark.parametrize(
    ("old_has", "new_has", "took", "goes"),
    [
        (False, False, 0.015, True),
        (False, True, 0.015, False),  # the way there and back, which was asked for
        (False, True, 0.050, True),  # more than that
        (True, True, 0.015, True),
        (True, False, 0.015, True),
    ],
)
def test_the_way_to_a_process_of_its_own_is_not_held_against_a_canary_that_moves_there(
    old_has: bool, new_has: bool, took: float, goes: bool
) -> None:
    def version(has_process: bool) -> Any:
        slot = SimpleNamespace(
            statistics=Statistics(),
            state=PluginState.RUNNING,
            reason="",
            has_process=has_process,
            on_failed_first=lambda message, count: None,
        )
        return SimpleNamespace(slot=slot, manifest=SimpleNamespace(delivery=Delivery()))

    old, new, idle = version(old_has), version(new_has), SimpleNamespace(has_work=lambda slot: False)
    trial = Trial(old, new, Plan(strategy="canary"), cast(Any, idle), 1.0)
    for each, seconds in ((old, 0.001), (new, took)):
        numbers = each.slot.statistics
        numbers.taken = numbers.processed = numbers.published = 60
        numbers.recent.extend([seconds] * 60)
    assert bool(trial.judge()) is goes
    assert trial.bad == "" or "messages took longer than" in trial.bad


def poison(share: float) -> Fails:
    """Some messages fail at every attempt, and in every version that has this; with keys, some keys."""
    return lambda key, chance: crc32(f"poison {key}".encode()) % 10_000 < share * 10_000


def at_random(share: float) -> Fails:
    return lambda key, chance: chance.random() < share


def either(one: Fails, other: Fails) -> Fails:
    return lambda key, chance: one(key, chance) or other(key, chance)


def of_each_fifth_key(key: str, chance: random.Random) -> bool:
    return int(key.rpartition(" ")[2]) % 5 == 0


@pytest.mark.parametrize(
    ("fails", "how"),
    [
        (poison(0.002), {}),
        (poison(0.01), {}),
        (poison(0.05), {}),
        (poison(0.03), {"asks": False}),
        (at_random(0.05), {}),
        (either(poison(0.02), at_random(0.03)), {}),
        (poison(0.05), {"keys": 40}),
        (either(poison(0.02), at_random(0.02)), {"keys": 100, "lanes": 4, "blocks": 100}),
    ],
)
def test_of_versions_that_do_as_well_no_more_are_sent_back_than_is_said(fails: Fails, how: Any) -> None:
    chance = random.Random(7)
    given = [canary(chance, old=fails, new=fails, messages=1_500, **how)[0] for _ in range(200)]
    assert sum(map(bool, given)) <= 200 * verdict.ERROR


@pytest.mark.parametrize("poisoned", [0.0, 0.01])
@pytest.mark.parametrize(
    ("fails", "how"),
    [
        (at_random(0.2), {}),
        (poison(0.2), {}),
        (at_random(0.2), {"asks": False}),
        (at_random(0.2), {"lanes": 4, "blocks": 5_000}),
        (of_each_fifth_key, {"keys": 1_000}),
        (of_each_fifth_key, {"keys": 1_000, "lanes": 8, "blocks": 50_000}),
        (at_random(1.0), {"lanes": 4, "blocks": 50_000}),
    ],
)
def test_a_version_that_fails_one_message_in_five_is_back_within_two_hundred_however_fast_the_rest_is(
    fails: Fails, how: Any, poisoned: float
) -> None:
    chance, old = random.Random(3), poison(poisoned)
    for _ in range(40):
        given, failed = canary(chance, old=old, new=either(old, fails), **how)
        assert failed
        assert 2 <= given <= 200


def test_a_version_that_fails_a_few_keys_as_a_whole_is_back_within_two_hundred() -> None:
    """Of forty keys it gets a few, and none that fails in two cases of five."""
    chance, given = random.Random(3), []
    for _ in range(100):
        received, failed = canary(
            chance, old=at_random(0), new=of_each_fifth_key, keys=40, lanes=3, messages=10_000
        )
        given += [received] * bool(failed)
    assert len(given) > 40
    assert all(2 <= received <= 200 for received in given)


def test_a_version_that_fails_everything_is_back_after_a_handful() -> None:
    chance = random.Random(3)
    for lanes in (1, 4):
        how: Any = {"lanes": lanes, "blocks": 5_000}
        given = [canary(chance, old=at_random(0), new=at_random(1), **how)[0] for _ in range(50)]
        assert all(2 <= received <= 8 for received in given)


def test_what_the_old_version_fails_at_too_speaks_against_neither() -> None:
    failures, old, new = Failures(), tally(900), tally(100)
    for _ in range(20):
        failures.add(7)
    assert failures.are_suspect(old, new)
    failures.asked([7], [7])
    assert failures.count() == 0
    assert failures.why_worse(old, new) == ""
    for part in range(20, 30):
        failures.add(part)
    failures.asked([20], [])
    assert failures.why_worse(old, new).endswith("; the old version did 1 of 2 of them well")


def test_keys_are_spread_evenly_and_always_alike() -> None:
    parts = [part_of(f"speaker {number}") for number in range(20_000)]
    assert 0.09 < sum(part < 1_000 for part in parts) / len(parts) < 0.11
    assert (part_of("ann"), part_of("")) == (part_of("ann"), part_of(""))
    assert {part_of("a"), part_of("b")} == {zlib_part("a"), zlib_part("b")}


def zlib_part(key: str) -> int:
    return crc32(f"version:{key}".encode()) % 10_000
