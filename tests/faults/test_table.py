"""The table of faults in README.md names tests that exist; and what the table says of clocks."""

import re
from pathlib import Path

import pytest

import echo_core

TESTS = Path(__file__).parents[1]
TABLE = (TESTS / "faults" / "README.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TABLE)))


def test_every_row_that_is_not_told_elsewhere_is_in_the_table() -> None:
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", TABLE, re.MULTILINE)}
    assert rows == set(range(1, 31)) - {25, 26}
    assert all("::" in line for line in TABLE.splitlines() if re.match(r"\| (\d+|-) \|", line))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_test_that_the_table_names_is_there(file: str, test: str) -> None:
    assert re.search(rf"^(async )?def {test}\(", (TESTS / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "part", ["isolation", "dispatch.py", "retry.py", "circuit.py", "watchdog.py", "progress.py", "host.py"]
)
def test_what_watches_over_processes_and_messages_never_asks_for_the_time_of_day(part: str) -> None:
    """A jump of the clock must not end, retry or stall anything: deadlines are of the monotonic clock."""
    place = Path(echo_core.__file__).parent / "runtime" / part
    files = sorted(place.glob("*.py")) if place.is_dir() else [place]
    assert files
    for file in files:
        assert not re.search(r"\btime\.time\(|\btime_ns\(\)|datetime\.now|utcnow", file.read_text()), file
