"""The benchmark of the history runs, and its page says what it measured."""

from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import history, machine


@pytest.mark.parametrize("variant", ["none", "records", "all, masked"])
def test_every_message_is_handled_with_and_without_it(variant: str) -> None:
    run = history.pipeline(variant, 30)
    assert run.messages == 90
    assert (run.bytes > 0) == (variant != "none")
    assert run.dropped == 0
    assert history.pipeline("records", 30, batches=True).messages == 90


def test_a_history_is_filled_and_asked(tmp_path: Path) -> None:
    file = tmp_path / "history.sqlite"
    ids = history.fill(file, 600)
    assert len(ids) == 100
    found = history.questions(file, ids, 3, commands=1)
    assert 0 < found["p50_ms"] <= found["max_ms"]
    assert set(found["command_ms"]) == {"trace", "explain"}


def test_the_page_has_a_row_for_each_variant() -> None:
    run = asdict(history.Measured(100, 1.0, 0.5, 0.25, 0, 1_000))
    names = (*history.VARIANTS, "batches, none", "batches, records")
    answers = {
        "p50_ms": 1.0,
        "max_ms": 2.0,
        "cpu_p50_ms": 1.0,
        "cpu_max_ms": 2.0,
        "prefix_ms": 3.0,
        "bytes": 10**6,
    }
    text = history.page(
        {
            "runs": {name: [run] for name in names},
            "machine": machine.describe(),
            "records": 10,
            "answers": {**answers, "command_ms": {"trace": 4.0, "explain": 5.0}},
        }
    )
    assert text.count("+0.00 us, 1.00x | 10 | 0 |") == len(names)
