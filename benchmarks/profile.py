"""Where each microsecond of a message goes: writes docs/benchmarks/profile.md (`make bench-profile`).

Two methods that check each other. Subtraction: the CPU time of the same work with more and more around it.
Sampling: py-spy looks from outside at the thread that holds the interpreter's lock, which, unlike a tracing
profiler, does not make small functions look dear; its shares are multiplied with the CPU time measured
without it. What C code does without the lock (sockets, compression) is spread over the rest.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import echo_core
from benchmarks import ROOT, machine, work
from benchmarks.measure import Measured, command, environment, pureness, run_all
from benchmarks.peers import CONTESTANTS, Contestant
from benchmarks.receiver import Receiver
from benchmarks.report import table
from echo_core import __version__

_SOURCES: Final = f"{Path(echo_core.__file__).parents[1]}/"
_OWN: Final = f"{ROOT}/benchmarks/"
_HERTZ: Final = 500
_ROUNDS: Final = 5
_SHOWN: Final = 0.01
"""Functions below this share of the whole are added up in one line."""

_FAST: Final = "common_telemetry.engines.fast."
PURPOSES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("the plugins: the three functions, and what calls them", ("the benchmark",)),
    (
        "roles: from `process_message` to the author's one method, and its result to a publication",
        ("echo_core.roles",),
    ),
    (
        "dispatch: a message off its queue, the handler awaited, time and outcome noted, settled; a look at"
        " the clock for the plugin's share of the loop",
        ("echo_core.runtime.lane", "echo_core.transports.turn", "echo_core.runtime.statistics"),
    ),
    (
        "publication: whether the plugin may, the message made, its subscribers found and their queues"
        " filled within their limits",
        (
            "echo_core.runtime.context",
            "echo_core.runtime.source_context",
            "echo_core.topics",
            "echo_core.transports",
        ),
    ),
    (
        "the message: an id that sorts by time, and receipts, so that lineage needs no clock",
        ("echo_core.message",),
    ),
    (
        "measurements: three durations a handling into the buckets of their histograms, with exemplars",
        tuple(_FAST + name for name in ("measuring", "run", "series", "metric", "exemplars", "exponential")),
    ),
    (
        "export: spans out of the buffer into requests, compressed and sent by a thread of their own",
        (
            *(_FAST + name for name in ("buffer", "pile", "exports", "worker", "wire")),
            "common_telemetry.senders",
            "standard library",
            "requests",
            "urllib3",
        ),
    ),
    (
        "spans: six a message, with ids, times and headers from hop to hop, each written in its final bytes",
        ("common_telemetry.", "opentelemetry"),
    ),
    ("the event loop", ("asyncio", "uvloop")),
)
"""What a room's time is for, in words, and the beginnings of the rooms' names; the first that fits."""


def purpose_of(room: str) -> str:
    """What the time of a room is for."""
    return next((words for words, rooms in PURPOSES if room.startswith(rooms)), "everything else")


@dataclass(frozen=True)
class Frame:
    """One level of a stack, as py-spy writes it: `function (file:first line)`."""

    function: str
    file: str

    @classmethod
    def parse(cls, text: str) -> "Frame":
        """Read one."""
        function, _, place = text.rpartition(" (")
        return cls(function, place.rstrip(")").rpartition(":")[0])

    @property
    def room(self) -> str:
        """Whose code it is: a module of ours, a package, or the standard library."""
        if self.file.startswith(_SOURCES):
            return self.file.removeprefix(_SOURCES).removesuffix(".py").replace("/", ".")
        if self.file.startswith(_OWN):
            return "the benchmark"
        if "/site-packages/" in self.file:
            return self.file.rpartition("/site-packages/")[2].partition("/")[0]
        return "asyncio" if "/asyncio/" in self.file else "standard library"

    @property
    def is_ours(self) -> bool:
        """Whether we wrote it: Echo Core with its telemetry, or the benchmark and its three plugins."""
        return self.file.startswith((_SOURCES, _OWN))


@dataclass
class Samples:
    """How often each place was seen."""

    total: int = 0
    rooms: Counter[str] = field(default_factory=Counter)
    """By the code that ran."""
    purposes: Counter[str] = field(default_factory=Counter)
    """By what it is for."""
    functions: Counter[str] = field(default_factory=Counter)
    """By the nearest function of ours, with whatever it calls outside."""

    def add(self, stack: Sequence[Frame], count: int) -> None:
        """Count a stack, outermost frame first."""
        self.total += count
        self.rooms[stack[-1].room] += count
        nearest = next((frame for frame in reversed(stack) if frame.is_ours), None)
        self.purposes[purpose_of(stack[-1].room)] += count
        name = (
            f"{nearest.room}: {nearest.function}"
            if nearest
            else "none of ours: the event loop, exporters' threads"
        )
        self.functions[name] += count


def read_samples(lines: Iterable[str]) -> Samples:
    """What lies between the first message and the last, out of py-spy's raw format: `frame;frame;… count`."""
    samples = Samples()
    for line in lines:
        text, _, count = line.rstrip("\n").rpartition(" ")
        thread, *frames = text.split(";")
        stack = [Frame.parse(frame) for frame in frames]
        if _is_running("MainThread" in thread, stack):
            samples.add(stack, int(count))
    return samples


def _is_running(is_main: bool, stack: Sequence[Frame]) -> bool:
    """Not an import, and in the main thread only what the contestant's `run` does."""
    if any(frame.file == "<frozen importlib._bootstrap>" for frame in stack):
        return False
    inside = any(frame.function == "run" and frame.file.endswith("/peers/echo_core.py") for frame in stack)
    return bool(stack) and (inside or not is_main)


def sample(contestant: Contestant, messages: int, receiver: Receiver) -> Samples:
    """Run the contestant once under py-spy; raises CalledProcessError when that may not look into it."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "samples.raw"
        watch = [program, "record", "--format=raw", f"--output={raw}", f"--rate={_HERTZ}"]
        watch += ["--function", "--full-filenames", "--threads", "--gil", "--"]
        env = environment(receiver, messages) | pureness(contestant)
        subprocess.run(
            [*watch, *command(contestant, messages)],
            cwd=ROOT,
            env=env,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        return read_samples(raw.read_text().splitlines())


def work_alone(messages: int) -> float:
    """CPU time a message, in microseconds, of the three functions and nothing else."""
    tally = work.Tally()
    segments = list(work.segments(messages))
    began = time.process_time()
    for segment in segments:
        work.validate(segment)
        tally.add(work.transform(segment))
    return (time.process_time() - began) / messages * 1e6


def ladder(alone: Sequence[float], measured: Sequence[Measured]) -> str:
    """The same work with more and more around it."""
    rows = [("the three functions, called in a loop", *_cpu(alone))]
    for one in measured:
        rows.append((one.contestant.title, *_cpu([run.cpu_us for run in one.runs])))
    return table(("what runs", "us CPU a message", "min .. max"), rows)


def _cpu(values: Sequence[float]) -> tuple[str, str]:
    return f"{statistics.median(values):,.1f}", f"{min(values):,.1f} .. {max(values):,.1f}"


def shares(counts: Counter[str], total: int, cpu_us: float, head: str) -> str:
    """What was seen, most first, in microseconds a message."""
    return table((head, "us a message", "share"), list(_share_rows(counts, total, cpu_us)))


def _share_rows(counts: Counter[str], total: int, cpu_us: float) -> Iterator[tuple[str, str, str]]:
    rest = 0
    for name, count in counts.most_common():
        if count / total < _SHOWN:
            rest += count
        else:
            yield name, f"{count / total * cpu_us:,.2f}", f"{count / total:.1%}"
    if rest:
        yield "everything below 1 %", f"{rest / total * cpu_us:,.2f}", f"{rest / total:.1%}"


def document(
    host: Mapping[str, Any],
    alone: Sequence[float],
    measured: Sequence[Measured],
    sampled: Mapping[str, Samples],
) -> str:
    """The whole page."""
    parts = [
        "# Where each microsecond of a message goes",
        f"Written by `make bench-profile`, Echo Core {__version__}. A message is one transcript segment on"
        " its way through three plugins (validate, transform, sink): published three times and handled three"
        " times, with 6 spans when it is traced.",
        f"Machine: {host['processor']}, {host['cores']} cores; {host['system']}; {host['python']}; load"
        f" average {host['load_average']} before the run. All figures are CPU time of the process, all"
        " threads, so other work on the machine matters little.",
        "## By subtraction",
        f"Medians of {_ROUNDS} interleaved runs. Each line does what the one before it does and something"
        " more, except that Echo Core does not run on asyncio.Queue: that line is there for comparison.",
        ladder(alone, measured),
    ]
    for one in measured:
        if one.contestant.key in sampled:
            parts += _section(one, sampled[one.contestant.key])
    parts += ["## In words", _WORDS]
    return "\n\n".join(parts) + "\n"


_WORDS: Final = """\
No line above is a task, a timer, a lock or a closure for a message: there are none. What is left is Python
calling Python. A hop is one publication and one handling: about twenty calls of functions without
telemetry, and about as many again with it. Each of these says one thing that a program by hand leaves out:
whether this plugin may publish there, who subscribes, whether there is room, what became of the attempt,
whether another plugin waits for the loop. What was tried there, and what was left, is in
[ADR 0057](../adr/0057-who-need-not-wait-is-no-coroutine.md).

Traced, the largest part is writing. A span leaves the hot path as the bytes that are sent, because writing
it from its parts costs less than keeping the parts and collecting them later; ids are random bytes, names
and constant attributes are written once for a plugin and a topic. A measurement is a number appended to a
list, and goes into its bucket with many others. What the exporting thread does is part of the figures,
because it takes the interpreter from the pipeline while it joins, and only compresses and sends without it.

Compiled code has no frames that py-spy could sample, so there it is told by taking things away: CPU time
a message, in turns on a busy machine, before [ADR
0064](../adr/0064-a-span-waits-as-what-differs-from-the-others.md). Of 36.5 us 17.5 are Echo Core without
telemetry, 10.4 what the message's thread does for telemetry (ids, headers, contexts, spans,
measurements), 4.3 spans that wait and are joined (what that record makes less), and 4.4 sending: 4.9
kilobytes a message, most of it the system's copying. A native profile (perf, 10,000 samples) says the
same in another way: 9 % are compiled modules and 9 % the exporting thread, a third of that the system's.
70 % are the interpreter, for the message's thread, with the objects and coroutines that the engine, the
plugins and telemetry ask of it.

Everything that remains happens once for a publication or a handling. To do it for many at once is what
batches are for (`delivery.batch_size`): see their row in the [results](README.md)."""


def _section(one: Measured, found: Samples) -> list[str]:
    cpu_us = one.median(lambda run: run.cpu_us)
    return [
        f"## By sampling: {one.contestant.title}",
        f"py-spy, {_HERTZ} samples a second, {found.total:,} samples between the first message and the"
        f" delivery of the last span; their shares of the {cpu_us:,.1f} us above. Time in C code counts for"
        " the Python function that called it; what runs without the interpreter's lock is spread over the"
        " rest.",
        shares(found.purposes, found.total, cpu_us, "what for"),
        "By module:",
        shares(found.rooms, found.total, cpu_us, "whose code runs"),
        "The same by the nearest function of ours, with what it calls outside Echo Core:",
        shares(found.functions, found.total, cpu_us, "function"),
    ]


def main() -> None:
    """Measure, sample, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measured run")
    told = parser.parse_args()
    by_key = {one.key: one for one in CONTESTANTS}
    # What is compiled has no frames to be sampled: pure Python is looked into.
    sampled_keys = ("echo_core_off", "echo_core_pure")
    chosen = [by_key[key] for key in ("handwritten_untraced", *sampled_keys, "echo_core")]
    host = machine.describe()
    alone = [work_alone(50_000) for _ in range(_ROUNDS)]
    with Receiver() as receiver:
        measured = run_all(chosen, rounds=_ROUNDS, seconds=told.seconds, receiver=receiver, say=_say)
        sampled = {
            one.contestant.key: sample(one.contestant, one.runs[0].messages * 4, receiver)
            for one in measured
            if one.contestant.key in sampled_keys
        }
    page = document(host, alone, measured, sampled)
    target = ROOT / "docs" / "benchmarks" / "profile.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    print(page)


def _say(line: str) -> None:
    sys.stderr.write(f"    {line}\n")


if __name__ == "__main__":
    main()
