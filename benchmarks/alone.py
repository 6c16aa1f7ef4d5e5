"""What `benchmarks.programs` measure of Echo Core alone: latency, scaling, memory, start."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import ROOT
from benchmarks.measure import RunFailed, Say, environment
from benchmarks.receiver import Receiver

ENGINES: Final = {"traced": "", "off": "off"}
"""How telemetry is set in the rows, and the engine that means."""
SIZES: Final[dict[str, tuple[int, ...]]] = {
    "plugins": (10, 100, 300, 1_000),
    "bystanders": (10, 100, 300, 1_000),
    "fan_out": (1, 10, 30, 100),
    "chain": (1, 3, 10, 30),
    "payload": (100, 1_000, 10_000, 100_000),
}
_LOAD: Final = 0.2
_TIMEOUT_S: Final = 400.0


def _program(name: str, *arguments: object, env: Mapping[str, str]) -> dict[str, Any]:
    """What the program prints last. Raises `RunFailed`."""
    command = [sys.executable, "-m", f"benchmarks.programs.{name}", *map(str, arguments)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise RunFailed(f"{name} did not end within {error.timeout:g} s") from error
    if done.returncode:
        raise RunFailed(f"{name} ended with {done.returncode}:\n{done.stderr[-2_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def latency(
    rates: Mapping[str, float], *, seconds: float, rounds: int, receiver: Receiver, say: Say
) -> dict[str, Any]:
    """Percentiles of a hop at 20 % of each measured rate: the median over the rounds of each percentile."""
    env = environment(receiver, 0)
    found: dict[str, list[dict[str, Any]]] = {setting: [] for setting in rates}
    for number in range(rounds):
        for setting, full_rate in rates.items():
            rate = full_rate * _LOAD
            count = int(min(50_000, max(500, rate * seconds)))
            one = _program(
                "latency", f"--rate={rate}", f"--count={count}", f"--engine={ENGINES[setting]}", env=env
            )
            say(f"round {number + 1}: a hop, {setting}: p50 {one['p50_ms']:.3f}, p99 {one['p99_ms']:.3f} ms")
            found[setting].append(one)
    return {setting: _summary(runs) for setting, runs in found.items()}


def _summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = ("p50_ms", "p99_ms", "max_ms", "machine_away", "machine_away_longest_ms")
    return {key: statistics.median(run[key] for run in runs) for key in keys} | {
        "rate": runs[0]["rate"],
        "runs": list(runs),
    }


def scaling(
    sizes: Mapping[str, Sequence[int]],
    settings: Sequence[str],
    *,
    seconds: float,
    rounds: int,
    receiver: Receiver,
    say: Say,
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """CPU time a message, in microseconds, of every run: by shape, telemetry setting and size."""
    env = environment(receiver, 100_000)
    found: dict[str, dict[str, dict[int, list[float]]]] = {
        shape: {setting: {size: [] for size in points} for setting in settings}
        for shape, points in sizes.items()
    }
    for number in range(rounds):
        for shape, points in sizes.items():
            for setting in settings:
                for size in points:
                    one = _program(
                        "scaling",
                        shape,
                        size,
                        f"--seconds={seconds}",
                        f"--engine={ENGINES[setting]}",
                        env=env,
                    )
                    found[shape][setting][size].append(one["cpu_us"])
            say(f"round {number + 1}: scaling: {shape}")
    return found


def queues(sizes: Sequence[int], *, seconds: float, rounds: int, say: Say) -> dict[int, list[float]]:
    """CPU time a message, in microseconds, of every run by hand: so many asyncio.Queues, a task for each."""
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for number in range(rounds):
        for size in sizes:
            one = _program("queues", size, f"--seconds={seconds}", env=os.environ)
            found[size].append(one["cpu_us"])
        say(f"round {number + 1}: queues by hand")
    return found


def memory(counts: Mapping[str, int], *, receiver: Receiver, say: Say) -> dict[str, Any]:
    """Resident bytes after each tenth of so many messages."""
    env = environment(receiver, 0)
    found = {}
    for setting, count in counts.items():
        receiver.reset()
        found[setting] = _program("memory", f"--messages={count}", f"--engine={ENGINES[setting]}", env=env)
        say(f"memory, {setting}: {count:,} messages")
    return found


def start(plugins: int, rounds: int, *, say: Say) -> list[float]:
    """Seconds from starting Python to that many plugins running; once a round."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.programs.start", f"--plugins={plugins}"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            found.append(time.perf_counter() - began)
        if process.returncode:
            raise RunFailed(f"start ended with {process.returncode}")
    say(f"start with {plugins} plugins: {statistics.median(found):.2f} s")
    return found


def version_command(rounds: int, *, say: Say) -> tuple[list[float], str]:
    """Seconds that `echo-core --version` takes; or why that cannot be measured."""
    program = shutil.which("echo-core", path=str(Path(sys.executable).parent))
    if program is None:
        return [], "the command is not installed"
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        done = subprocess.run([program, "--version"], check=False, capture_output=True, text=True)
        found.append(time.perf_counter() - began)
        if done.returncode:
            return [], done.stderr.strip().splitlines()[-1]
    say(f"echo-core --version: {statistics.median(found) * 1e3:.0f} ms")
    return found, ""
