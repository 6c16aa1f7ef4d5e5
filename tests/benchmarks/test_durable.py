"""The benchmark of durability runs, and its page says what it measured."""

import asyncio
from dataclasses import asdict

import pytest

from benchmarks import durable, machine


@pytest.mark.parametrize("each", [1, 8])
def test_we_publish_and_consume_everything(each: int) -> None:
    run = asyncio.run(durable.ours(4, 0.05, each))
    assert run.messages > 0
    assert run.messages % each == 0
    assert 0 < run.p50_ms <= run.p99_ms
    assert run.rate * run.seconds == pytest.approx(run.messages)


def test_sqlite_alone_is_measured() -> None:
    assert durable.inserts(8, 0.05).messages % 8 == 0


def test_recovery_and_letters_are_timed_with_all_there_is() -> None:
    assert asyncio.run(durable.recovery(2_000))["messages"] == 2_000
    found = durable.letters(30)
    assert (found["letters"], found["filtered"]) == (30, 1)


def test_the_page_has_a_row_for_each_number_of_publishers() -> None:
    run = asdict(durable.Measured(100, 1.0, 0.5, 1.0, 2.0))
    names = [f"{name} {waiting}" for name in ("inserts", "ours") for waiting in durable.WAITING]
    text = durable.page(
        {
            "runs": {name: [run] for name in [*names, "inserts 512", "batches 512"]},
            "machine": machine.describe(),
            "nats_server": "",
            "recovery": {"messages": 1, "first_delivery_s": 0.1},
            "letters": {"letters": 1, "seconds": 0.1},
        }
    )
    assert text.count("| 1.00x |") == len(durable.WAITING) + 1
    assert "not here" in text
