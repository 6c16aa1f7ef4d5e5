from collections.abc import Iterator

import pytest
from benchmarks.measure import run_all
from benchmarks.peers import CONTESTANTS, Contestant
from benchmarks.receiver import Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_a_contestant_that_fails_is_out_with_the_reason_and_the_others_go_on(receiver: Receiver) -> None:
    good = next(one for one in CONTESTANTS if one.key == "handwritten_lean")
    bad = Contestant(key="bad", title="bad", program="there_is_none")
    said: list[str] = []
    found = run_all([bad, good], rounds=1, seconds=0.01, receiver=receiver, say=said.append)
    assert not found[0].runs
    assert "there_is_none" in found[0].unavailable
    assert len(found[1].runs) == 1
    assert any("bad ended with" in line for line in said)
