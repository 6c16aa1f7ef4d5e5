"""The statistics of a canary, against slow and obvious twins."""

import math
import random
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_core.runtime.upgrade.splitter import part_of
from echo_core.runtime.upgrade.verdict import Tally, binomial_tail, hypergeometric_tail, why_worse

SMALL = st.integers(0, 30)


def tally(
    ended: int = 0, failed: int = 0, published: int | None = None, refused: int = 0, took: float = 0.001
) -> Tally:
    said = ended if published is None else published
    return Tally(ended, ended, failed, said, refused, [took] * min(ended, 1_000))


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
        (tally(50, failed=12), "12 of 62 attempts failed, against 0 of 450"),
        (tally(50, refused=1), "published outside its publications, 1 time(s)"),
        (tally(50, took=0.02), "50 of 50 messages took longer than 2 ms"),
        (tally(50, published=0), "it published 0 for each message, against 1"),
        (tally(50, published=150), "it published 3 for each message"),
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


def test_a_version_that_fails_as_often_as_the_old_one_is_rarely_sent_back_however_often_one_looks() -> None:
    chance, sent_back = random.Random(7), 0
    for _ in range(200):
        old_failed = new_failed = 0
        for look in range(1, 41):
            old_failed += sum(chance.random() < 0.05 for _ in range(225))
            new_failed += sum(chance.random() < 0.05 for _ in range(25))
            old = Tally(225 * look, 225 * look - old_failed, old_failed, 0, 0)
            if why_worse(old, Tally(25 * look, 25 * look - new_failed, new_failed, 0, 0), look):
                sent_back += 1
                break
    assert sent_back <= 6  # 1 % of 200 is 2


def test_a_version_that_fails_for_one_message_in_five_is_found_within_a_hundred() -> None:
    chance = random.Random(3)
    for _ in range(200):
        failed = 0
        for look in count(1):
            ended = 25 + 25 * look
            failed += sum(chance.random() < 0.2 for _ in range(25 if look > 1 else 50))
            if why_worse(Tally(9 * ended, 9 * ended, 0, 0, 0), Tally(ended, ended, failed, 0, 0), look):
                break
        assert ended <= 100


def test_keys_are_spread_evenly_and_always_alike() -> None:
    parts = [part_of(f"speaker {number}") for number in range(20_000)]
    assert 0.09 < sum(part < 1_000 for part in parts) / len(parts) < 0.11
    assert (part_of("ann"), part_of("")) == (part_of("ann"), part_of(""))
    assert {part_of("a"), part_of("b")} == {zlib_part("a"), zlib_part("b")}


def zlib_part(key: str) -> int:
    import zlib

    return zlib.crc32(f"version:{key}".encode()) % 10_000
