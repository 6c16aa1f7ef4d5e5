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


@pytest.mark.parametrize("consumes", [False, True])
def test_sqlite_alone_is_measured(consumes: bool) -> None:
    assert durable.inserts(8, 0.05, consumes=consumes).messages % 8 == 0


def test_the_section_holds_publishers_that_await_messages_and_those_that_await_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast, slow = (asdict(durable.Measured(count, 1.0, 0.5)) for count in (100_000, 40_000))
    runs = {
        "inserts 64": [fast] * 3,
        "by hand 64": [slow] * 3,
        "ours 64": [slow] * 3,
        "inserts 16 of 64": [fast] * 3,
        "ours 16 of 64": [fast, fast, slow],
    }
    document = {
        "runs": runs,
        "recovery": {"messages": 1_000_000, "first_delivery_s": 0.1},
        "letters": {"letters": 1, "seconds": 0.1},
    }
    monkeypatch.setattr(durable, "measure", lambda *_, **__: document)
    rows = durable.section(False, print).rows
    assert [(row.demanded, row.found, row.met) for row in rows[:5]] == [
        (">= 20,000/s", "40,000/s", True),
        (">= 0.5x its rate", "0.400x", False),
        ("-", "1.000x", None),
        (">= 0.5x its rate", "1.000x", True),
        ("-", "-", None),
    ]
    assert rows[4].note == "huey is not installed"


def test_recovery_and_letters_are_timed_with_all_there_is() -> None:
    assert asyncio.run(durable.recovery(2_000))["messages"] == 2_000
    found = durable.letters(30)
    assert (found["letters"], found["filtered"]) == (30, 1)


def test_the_page_has_a_row_for_each_number_of_publishers() -> None:
    half, one, two = (asdict(durable.Measured(count, 1.0, 0.5, 1.0, 2.0)) for count in (50, 100, 200))
    all_at_once = [*map(str, durable.WAITING), *(f"{count} of {each}" for count, each in durable.BATCHES)]
    runs = {f"inserts {name}": [one, half, one] for name in all_at_once}
    runs |= {f"ours {name}": [one, one, half] for name in all_at_once}
    runs |= {f"by hand {name}": [two, two, two] for name in all_at_once}
    text = durable.page(
        {
            "runs": runs | {"jetstream 16": [two], "huey 1": [half]},
            "machine": machine.describe(),
            "nats_server": "",
            "recovery": {"messages": 1, "first_delivery_s": 0.1},
            "letters": {"letters": 1, "seconds": 0.1},
        }
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len({line.count("|") for line in rows}) == 1
    assert text.count("| 1.00x (0.50 .. 2.00) | 0.50x (0.25 .. 0.50) |") == len(all_at_once)
    assert "| 200 | 0.5x |" in text
    assert "| 50 | 2.0x |" in text
    assert "| not here |" in text
