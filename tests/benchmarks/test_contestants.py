"""Every contestant does the whole work and delivers all its telemetry. What is not installed is skipped."""

import asyncio
import sys
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks.job import Job
from benchmarks.measure import run_once
from benchmarks.peers import (
    CONTESTANTS,
    Contestant,
    handwritten_lean,
    handwritten_traced,
    handwritten_untraced,
)
from benchmarks.receiver import Receiver
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider

from benchmarks import ROOT, servers
from support.brokers import Brokers

MESSAGES = 200
WITH_PEERS = ROOT / ".venvs" / "bench" / "bin" / "python"
PYTHON = str(WITH_PEERS) if WITH_PEERS.exists() else sys.executable


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.key)
def test_a_contestant_handles_every_message_and_delivers_every_span(
    contestant: Contestant, receiver: Receiver, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if contestant.server:
        url = f"{contestant.server}://127.0.0.1:{brokers.server(contestant.server).port}"
        monkeypatch.setenv(servers.variable(contestant.server), url)
    try:
        run, versions = run_once(contestant, MESSAGES, receiver, PYTHON)
    except LookupError as reason:
        pytest.skip(f"not available here: {reason}")
    assert run.messages == MESSAGES
    assert run.spans_lost == run.measurements_lost == 0
    assert run.seconds > 0
    assert "python" in versions


def test_a_contestant_that_makes_no_spans_is_called_untraced_and_sends_none(receiver: Receiver) -> None:
    off = next(one for one in CONTESTANTS if one.key == "echo_core_off")
    run_once(off, MESSAGES, receiver)
    assert not off.is_traced
    assert receiver.report()["spans"] == 0


def test_the_program_without_telemetry_makes_the_messages_of_the_traced_one_and_the_leanest_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the two are compared with is one pipeline, not a shorter one."""
    made = 0

    def counted() -> uuid.UUID:
        nonlocal made
        made += 1
        return uuid.UUID(int=made)

    monkeypatch.setattr(uuid, "uuid4", counted)
    no_telemetry: Any = SimpleNamespace(
        tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider()
    )
    ids: list[int] = []
    for pipeline in (
        lambda job: handwritten_traced.pipeline(job, no_telemetry),
        handwritten_untraced.pipeline,
        handwritten_lean.pipeline,
    ):
        made, task = 0, Job(MESSAGES)
        asyncio.run(pipeline(task))
        assert task.is_done
        ids.append(made)
    assert ids == [3 * MESSAGES, 3 * MESSAGES, 2 * MESSAGES]
