"""Every contestant does the whole work and delivers all its telemetry. What is not installed is skipped."""

import sys
from collections.abc import Iterator

import pytest
from benchmarks.measure import run_once
from benchmarks.peers import CONTESTANTS, Contestant
from benchmarks.receiver import Receiver

from benchmarks import ROOT, nats_server

MESSAGES = 200
WITH_PEERS = ROOT / ".venvs" / "bench" / "bin" / "python"
PYTHON = str(WITH_PEERS) if WITH_PEERS.exists() else sys.executable


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture(scope="module")
def nats_url() -> Iterator[str | None]:
    with nats_server.running() as url:
        yield url


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.key)
def test_a_contestant_handles_every_message_and_delivers_every_span(
    contestant: Contestant, receiver: Receiver, nats_url: str | None
) -> None:
    try:
        run, versions = run_once(contestant, MESSAGES, receiver, nats_url, PYTHON)
    except LookupError as reason:
        pytest.skip(f"not available here: {reason}")
    assert run.messages == MESSAGES
    assert run.spans_lost == run.measurements_lost == 0
    assert run.seconds > 0
    assert "python" in versions


def test_a_contestant_that_makes_no_spans_is_called_untraced_and_sends_none(receiver: Receiver) -> None:
    off = next(one for one in CONTESTANTS if one.key == "echo_core_off")
    run_once(off, MESSAGES, receiver, None)
    assert not off.is_traced
    assert receiver.report()["spans"] == 0
