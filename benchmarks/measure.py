"""Runs contestants: each in a process of its own, several times.

They take turns, so that a machine that is busy with other things is busy for all of them.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks import ROOT
from benchmarks.job import NOT_AVAILABLE
from benchmarks.peers import Contestant
from benchmarks.receiver import Receiver
from common_telemetry import compiled

_PROBE: Final = 300
_FEWEST: Final = 500
_MOST: Final = 500_000
_TIMEOUT_S: Final = 120.0
_SPANS_PER_MESSAGE: Final = 8
"""Room in the span queue for each message of a run; more than any contestant makes."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One measured run."""

    messages: int
    seconds: float
    """From the first message to the last one done and its telemetry delivered."""
    cpu_seconds: float
    """Of the contestant's process, all threads."""
    spans_lost: int = 0
    measurements_lost: int = 0

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time a message, in microseconds."""
        return self.cpu_seconds / self.messages * 1e6


@dataclass
class Measured:
    """All runs of one contestant; none, and why, where it cannot run here."""

    contestant: Contestant
    runs: list[Run] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    unavailable: str = ""
    """Why there are no figures of it: it cannot run here, or one of its runs went wrong."""

    def median(self, of: Callable[[Run], float]) -> float:
        """The middle of the runs."""
        return statistics.median(of(run) for run in self.runs)

    def spread(self, of: Callable[[Run], float]) -> tuple[float, float]:
        """The smallest and the largest."""
        values = [of(run) for run in self.runs]
        return min(values), max(values)


class RunFailed(Exception):
    """A contestant ended in an error, or did other work than it was asked for."""


def environment(receiver: Receiver, messages: int) -> dict[str, str]:
    """What every contestant is told, alike."""
    told = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    told |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_BSP_MAX_QUEUE_SIZE": str(max(65_536, messages * _SPANS_PER_MESSAGE)),
        "PYTHONHASHSEED": "0",
    }
    return told


def pureness(contestant: Contestant) -> dict[str, str]:
    """What has Echo Core run as pure Python, if this contestant does."""
    return {compiled.VARIABLE: "no"} if contestant.pure else {}


def command(contestant: Contestant, messages: int, python: str = sys.executable) -> list[str]:
    """How to run a contestant; from `ROOT`."""
    told = [f"--messages={messages}", f"--variant={contestant.variant}"]
    return [python, "-m", contestant.module, *told]


def run_once(
    contestant: Contestant,
    messages: int,
    receiver: Receiver,
    python: str = sys.executable,
) -> tuple[Run, dict[str, str]]:
    """One run, and the versions of what took part.

    Raises LookupError with the reason if it cannot run here, `RunFailed` if it went wrong.
    """
    receiver.reset()
    try:
        done = subprocess.run(
            command(contestant, messages, python),
            cwd=ROOT,
            check=False,
            env=environment(receiver, messages) | pureness(contestant),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{contestant.title} did not end within {error.timeout:g} s") from error
    if done.returncode == NOT_AVAILABLE:
        raise LookupError(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        raise RunFailed(f"{contestant.title} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    arrived = receiver.report()
    measured = arrived["measured"].get("messaging.process.duration", 0)
    run = Run(
        messages=messages,
        seconds=said["seconds"],
        cpu_seconds=said["cpu_seconds"],
        spans_lost=max(0, contestant.spans_per_message * messages - arrived["spans"]),
        measurements_lost=max(0, contestant.measurements_per_message * messages - measured),
    )
    return run, said["versions"]


def run_all(
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    seconds: float,
    receiver: Receiver,
    say: Say,
) -> list[Measured]:
    """`rounds` runs of each, of about `seconds` each; short runs before decide how many messages that is.

    One whose run goes wrong is out, with the reason; the others go on.
    """
    found = [Measured(contestant) for contestant in contestants]
    counts: dict[str, int] = {}
    for one in found:
        try:
            counts[one.contestant.key], one.versions = _probe(one.contestant, seconds, receiver)
        except LookupError as reason:
            one.unavailable = str(reason)
            say(f"{one.contestant.title}: not available here: {reason}")
        except RunFailed as failure:
            _put_out(one, failure, say)
    for number in range(rounds):
        for one in found:
            if one.unavailable:
                continue
            try:
                run, _ = run_once(one.contestant, counts[one.contestant.key], receiver)
            except RunFailed as failure:
                _put_out(one, failure, say)
                continue
            one.runs.append(run)
            say(f"round {number + 1}: {one.contestant.title}: {run.rate:,.0f}/s, {run.cpu_us:.1f} us CPU")
    return found


def _put_out(one: Measured, failure: RunFailed, say: Say) -> None:
    say(str(failure))
    lines = str(failure).strip().splitlines()
    one.unavailable = f"a run failed: {lines[-1]}"


def _probe(contestant: Contestant, seconds: float, receiver: Receiver) -> tuple[int, dict[str, str]]:
    """How many messages take about `seconds`; what is too short to tell is repeated with more."""
    count = _PROBE
    while True:
        run, versions = run_once(contestant, count, receiver)
        enough = _rounded(min(_MOST, max(_FEWEST, run.rate * seconds)))
        if run.seconds >= seconds / 2 or count >= enough:
            return enough, versions
        count = max(2 * count, enough // 3)


def _rounded(count: float) -> int:
    """Two digits are enough."""
    return int(float(f"{count:.1e}"))
