"""What the message history costs, and how fast it answers: `python -m benchmarks.history`.

The same pipeline (a source, validate, transform, sink; no telemetry) with and without it, in turns; then a
history of a million records is written, and asked for the paths of messages in it.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks import ROOT, job, machine, work
from benchmarks.durable import folder_on_disk
from benchmarks.hosting import manifest, run_until_idle, telemetry_for
from benchmarks.peers.echo_core import (
    BATCH_SIZE,
    CaptionTransformer,
    SegmentSource,
    SegmentValidator,
    TallySink,
)
from echo_core.message import BaseMessage
from echo_core.runtime.message_history.path import History
from echo_core.runtime.message_history.recorder import Recorder
from echo_core.runtime.message_history.records import PROCESSED
from echo_core.runtime.settings import HistorySettings
from echo_core.transports.base import Delivery
from echo_core.workspace import SETTINGS_FILE

OUT: Final = ROOT / "docs" / "benchmarks"
VARIANTS: Final = {
    "none": None,
    "records": HistorySettings(),
    "failures": HistorySettings(payloads="failures"),
    "sample": HistorySettings(payloads="sample"),
    "all": HistorySettings(payloads="all"),
    "all, masked": HistorySettings(payloads="all", mask=("speaker",)),
}
"""By name; None: no history."""
HANDLED: Final = 3
"""How often each message of the source is handled, with what is made from it."""
QUESTIONS: Final = 200


@dataclass(frozen=True)
class Measured:
    """One run of the pipeline."""

    messages: int
    """Handled, over all plugins."""
    seconds: float
    cpu_seconds: float
    """Of the process, all threads."""
    loop_seconds: float
    """CPU time of the thread that handles the messages."""
    dropped: int = 0
    bytes: int = 0
    """On disk."""

    @property
    def cpu_us(self) -> float:
        """CPU time a message handled, in microseconds."""
        return self.cpu_seconds / self.messages * 1e6

    @property
    def loop_us(self) -> float:
        """The same, of the thread that handles the messages."""
        return self.loop_seconds / self.messages * 1e6


@contextlib.contextmanager
def recorder(settings: HistorySettings | None) -> Iterator[tuple[Recorder | None, Path]]:
    """Records into a file on the disk that the repository is on."""
    with folder_on_disk() as folder:
        path = folder / "history.sqlite"
        if settings is None:
            yield None, path
            return
        found = Recorder(path, settings, stays=("#",))
        found.start()
        try:
            yield found, path
        finally:
            found.close()


def pipeline(variant: str, count: int, *, batches: bool = False) -> Measured:
    """So many messages of the source, with the history that the variant names."""
    task = job.Job(count, "batch" if batches else "")
    delivery = {"batch_size": BATCH_SIZE, "queue_limit": 4 * BATCH_SIZE}
    more: dict[str, Any] = {"delivery": delivery} if batches else {}
    plugins = [
        (SegmentSource(task), manifest("segment_source", says=[work.RAW])),
        (SegmentValidator(), manifest("segment_validator", hears=[work.RAW], says=[work.VALID], **more)),
        (
            CaptionTransformer(),
            manifest("caption_transformer", hears=[work.VALID], says=[work.CAPTIONS], **more),
        ),
        (TallySink(task.tally), manifest("tally_sink", hears=[work.CAPTIONS], **more)),
    ]
    with recorder(VARIANTS[variant]) as (history, path):
        gc.collect()
        began, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
        asyncio.run(run_until_idle(plugins, telemetry_for("off"), None, history))
        loop = time.thread_time() - loop
        if history is not None:
            history.close()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        dropped = history.dropped if history is not None else 0
        size = path.stat().st_size if path.exists() else 0
        return Measured(HANDLED * count, seconds, cpu, loop, dropped, size)


class _Handed(Delivery, msgspec.Struct, eq=False):
    """One that nobody waits for."""

    topic: str
    message: BaseMessage
    attempt: int

    async def settle(self) -> None:
        return

    async def retry(self, delay: float = 0.0) -> None:
        return


def fill(path: Path, records: int) -> list[str]:
    """A history of so many records; ids of messages in it, one of each path."""
    found = Recorder(path, HistorySettings(max_size_mb=4_096), stays=("#",))
    found.start()
    plugins = [found.of(f"plugin_{number}", "1.0.0") for number in range(3)]
    ids: list[str] = []
    for _ in range(records // (2 * len(plugins))):
        message = BaseMessage(source="plugin_0", version="1.0.0", trace_context=_context())
        ids.append(message.id)
        for plugin in plugins:
            plugin.accepted("transcript.raw", message, message.root_id, message.parent_ids)
            now = time.monotonic()
            plugin.done(_Handed("transcript.raw", message, 1), 1, PROCESSED, now, now + 0.001)
            message = message.derive(None, source="plugin_1", version="1.0.0")
        while len(found.done) > 50_000:
            found.flush()
    found.close()
    return ids


def _context() -> dict[str, str]:
    return {"traceparent": f"00-{random.randbytes(16).hex()}-{random.randbytes(8).hex()}-01"}


def questions(path: Path, ids: list[str], count: int, commands: int = 9) -> dict[str, Any]:
    """Milliseconds to answer, each time from a file that is opened anew."""
    taken: list[float] = []
    worked: list[float] = []
    for message_id in random.sample(ids, count):
        began, cpu = time.perf_counter(), time.thread_time()
        history = History(path)
        found = history.trace(message_id)
        history.close()
        taken.append((time.perf_counter() - began) * 1e3)
        worked.append((time.thread_time() - cpu) * 1e3)
        assert len(found.messages) == HANDLED
    began = time.perf_counter()
    with contextlib.closing(History(path)) as history:
        history.trace(ids[len(ids) // 2][:30])
    prefix = (time.perf_counter() - began) * 1e3
    return {
        "p50_ms": statistics.median(taken),
        "cpu_p50_ms": statistics.median(worked),
        "cpu_max_ms": max(worked),
        "max_ms": max(taken),
        "prefix_ms": prefix,
        "command_ms": _command(path, ids, commands),
        "bytes": path.stat().st_size,
    }


def _command(path: Path, ids: list[str], count: int) -> dict[str, float]:
    """Milliseconds for `echo-core trace ID`, and for a command that does nothing of the kind."""
    workspace = path.parent
    (workspace / SETTINGS_FILE).write_text(f'[history]\npath = "{path.name}"\n', encoding="utf-8")
    program = [str(Path(sys.executable).parent / "echo-core")]
    environ = {**os.environ, "ECHO_CORE_PROJECT": str(workspace)}
    taken: dict[str, list[float]] = {"trace": [], "explain": []}
    for _ in range(count):
        for arguments in (["trace", random.choice(ids)], ["explain", "E-BUILD"]):
            name, began = arguments[0], time.perf_counter()
            subprocess.run([*program, *arguments], check=True, env=environ, capture_output=True)
            taken[name].append((time.perf_counter() - began) * 1e3)
    return {name: statistics.median(each) for name, each in taken.items()}


def measure(rounds: int, count: int, records: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        for variant in VARIANTS:
            runs.setdefault(variant, []).append(asdict(pipeline(variant, count)))
        for variant in ("none", "records"):
            runs.setdefault(f"batches, {variant}", []).append(asdict(pipeline(variant, count, batches=True)))
    say(f"a history of {records:,} records")
    with folder_on_disk() as folder:
        path = folder / "history.sqlite"
        began, cpu = time.perf_counter(), time.process_time()
        ids = fill(path, records)
        written = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
        answers = questions(path, ids, QUESTIONS)
    return {
        "machine": machine.describe(),
        "runs": runs,
        "records": records,
        "written": written,
        "answers": answers,
    }


def middle(runs: list[dict[str, Any]]) -> Measured:
    """The run whose CPU time is the median."""
    found = sorted((Measured(**run) for run in runs), key=lambda run: run.cpu_us)
    return found[len(found) // 2]


_HEAD: Final = """# What the message history costs

Written by `make bench-history`; the numbers as measured are in `history.json`.

The pipeline of the other benchmarks (validate, transform, sink; no telemetry), with and without it, in turns:
the middle of {rounds} runs. A message is counted each time that a plugin handles one. "all threads" is the
whole process's CPU time, with the thread that writes; "loop" is that of the thread that handles messages.

| history | all threads, CPU us a message | more | loop, CPU us a message | more | bytes on disk a message \
| records dropped |
| --- | --- | --- | --- | --- | --- | --- |"""


def page(document: dict[str, Any]) -> str:
    """The results for people."""
    lines = [_HEAD.format(rounds=len(document["runs"]["none"]))]
    for name, each in document["runs"].items():
        run = middle(each)
        base = middle(document["runs"]["batches, none" if name.startswith("batches") else "none"])
        lines.append(
            f"| {name} | {run.cpu_us:.2f} | {run.cpu_us - base.cpu_us:+.2f} us, "
            f"{run.cpu_us / base.cpu_us:.2f}x | {run.loop_us:.2f} | {run.loop_us - base.loop_us:+.2f} us, "
            f"{run.loop_us / base.loop_us:.2f}x | {run.bytes / run.messages:.0f} | {run.dropped:,} |"
        )
    answers, about = document["answers"], document["machine"]
    command = answers["command_ms"]
    lines += [
        "",
        f"Among {document['records']:,} records ({answers['bytes'] / 1e6:.0f} MB) a message's path is found "
        f"by its id in {answers['p50_ms']:.0f} ms: the middle of {QUESTIONS} questions, the slowest took "
        f"{answers['max_ms']:.0f} ms. In CPU time that is {answers['cpu_p50_ms']:.0f} ms, and "
        f"{answers['cpu_max_ms']:.0f} ms at most.",
        f"By the beginning of its id it is found in {answers['prefix_ms']:.0f} ms. `echo-core trace ID` as a "
        f"whole takes {command['trace']:.0f} ms; `echo-core explain E-BUILD`, which asks for nothing, "
        f"{command['explain']:.0f} ms.",
        "",
        f"{about['processor']}, {about['cores']} cores, {about['system']}, {about['python']}; "
        f"load average at the end {about['load_average']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and write docs/benchmarks/history.md and history.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=30_000, help="of the source, in each run")
    parser.add_argument("--records", type=int, default=1_000_000, help="in the history that is asked")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()

    document = measure(
        chosen.rounds, chosen.messages, chosen.records, lambda text: print(text, file=sys.stderr, flush=True)
    )
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "history.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = page(document)
    (chosen.out / "history.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
