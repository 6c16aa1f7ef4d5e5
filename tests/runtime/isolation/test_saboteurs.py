"""Plugins that harm themselves, in processes of their own: the host and its messages come to no harm."""

import asyncio
import os
import re
import signal
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echo_core.runtime.dead_letters import DeadLetter
from echo_core.runtime.host import Host
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import PluginSnapshot
from runtime.hosting import Endless, Handler, Numbers, manifest, running
from runtime.isolation.tiers import Tiers
from support.children import children

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the faults are Linux's")


def saboteur(deed: str, *, when: str = "message.data == 5", preparation: str = "") -> str:
    """A plugin that publishes what it is given, and does the deed for some of it."""
    return f"""
import asyncio, ctypes, os, re, signal, socket, subprocess, sys, time
from echo_core import Transformer

class Saboteur(Transformer):
    async def init(self, context):
        await super().init(context)
{textwrap.indent(textwrap.dedent(preparation) or "pass", " " * 8)}

    async def transform(self, message):
        if {when}:
{textwrap.indent(textwrap.dedent(deed).strip(), " " * 12)}
        return message.data

def create_plugin():
    return Saboteur()
"""


class Run:
    """A feed of numbers, the saboteur, and a sink; what came of it."""

    def __init__(self, folder: Path, code: str, count: int = 20, **more: Any) -> None:
        self.tiers = Tiers(folder)
        self.sink = Handler()
        self.tiers.add(code, **more)
        self.tiers.world.add(Numbers(count), manifest("feed", says=("in",), plugin_type="source"))
        self.tiers.world.add(self.sink, manifest("drain", hears=("out",)))
        self.count = count
        self.threads = threading.active_count()
        self.children = children()
        self.fds = len(os.listdir("/proc/self/fd"))

    def to_the_end(self, meddle: Callable[["Run"], Any] | None = None) -> PluginSnapshot:
        """The numbers of the saboteur. No process, thread or file descriptor is left of it."""

        async def main() -> Any:
            meddling = asyncio.create_task(meddle(self)) if meddle else None
            try:
                return await self.tiers.world.run()
            finally:
                if meddling is not None:
                    await meddling

        numbers = asyncio.run(main())["subject"]
        assert children() <= self.children
        return numbers  # type: ignore[no-any-return]

    @property
    def letters(self) -> list[DeadLetter]:
        return self.tiers.world.dead_letters.newest()

    @property
    def others(self) -> list[int]:
        return [number for number in range(self.count) if number != 5]

    @property
    def crashes(self) -> list[str]:
        events = self.tiers.world.events
        return [event.reason for event in events if event.state is PluginState.BACKOFF]


@pytest.mark.parametrize(
    ("deed", "cause"),
    [
        ("ctypes.string_at(0)", "was ended by signal 11 (SIGSEGV)"),
        ("os._exit(0)", "ended by itself with exit code 0"),
        ("os.abort()", "was ended by signal 6 (SIGABRT)"),
    ],
)
def test_the_message_that_ends_the_process_is_found_and_all_others_are_handled(
    tmp_path: Path, deed: str, cause: str
) -> None:
    run = Run(tmp_path, saboteur(deed))
    numbers = run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    (letter,) = run.letters
    assert letter.message().data == 5
    assert [attempt.error_type for attempt in letter.attempts] == ["PluginCrashed", "PluginCrashed"]
    assert cause in letter.reason
    assert numbers.failed_attempts == 2
    assert any(cause in reason for reason in run.crashes)
    assert numbers.state is PluginState.STOPPED


def test_the_message_that_ends_the_process_is_found_in_a_batch(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        saboteur("ctypes.string_at(0)"),
        delivery={"batch_size": 8, "backoff_ms": 1, "max_attempts": 3},
    )
    run.to_the_end()
    assert sorted(run.sink.data) == run.others
    assert [letter.message().data for letter in run.letters] == [5]
    assert len(run.crashes) == 2


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise BaseException('odd')", "BaseException: odd"),
        ("raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})", "Mute: <no text"),
        ("raise ValueError('x' * 20_000_000)", "ValueError: xxxx"),
    ],
)
def test_whatever_a_handler_raises_is_a_failed_attempt(tmp_path: Path, deed: str, reason: str) -> None:
    run = Run(tmp_path, saboteur(deed), delivery={"max_attempts": 2, "backoff_ms": 1})
    run.to_the_end()
    assert run.sink.data == run.others
    assert run.letters[0].reason.startswith(reason)
    assert len(run.letters[0].reason) < 11_000
    assert run.crashes == []


@pytest.mark.parametrize("lanes", [1, 4])
def test_a_message_that_ends_the_process_after_it_was_handled_is_found(tmp_path: Path, lanes: int) -> None:
    run = Run(tmp_path, saboteur("os.closerange(3, 256)"), count=300, delivery={"lanes": lanes})
    numbers = run.to_the_end()
    assert sorted(run.sink.data) == run.others
    (letter,) = run.letters
    assert letter.message().data == 5
    assert letter.reason.startswith("PluginCrashed")
    assert len(run.crashes) == 2
    assert numbers.failed_attempts == 1


def test_a_segmentation_fault_leaves_the_stack_behind(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("ctypes.string_at(0)"), count=6)
    run.to_the_end()
    assert "in transform" in run.letters[0].attempts[0].traceback


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("time.sleep(60)", "event loop was blocked"),
        ("re.match(r'(a+)+$', 'a' * 40 + 'b')", "something holds the interpreter's lock"),
    ],
    ids=["blocked", "lock held"],
)
def test_a_blocked_process_is_killed_with_its_stack_taken(tmp_path: Path, deed: str, says: str) -> None:
    run = Run(tmp_path, saboteur(deed), count=8, block_s=1.0)
    run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    (letter,) = run.letters
    assert says in letter.reason
    assert "in transform" in letter.attempts[0].traceback


def test_a_stopped_process_is_killed_and_another_started(tmp_path: Path) -> None:
    once = "os.kill(os.getpid(), signal.SIGSTOP)"
    mark = tmp_path / "stopped"
    run = Run(
        tmp_path,
        saboteur(
            f"open({str(mark)!r}, 'w').close(); {once}",
            when=f"message.data == 5 and not os.path.exists({str(mark)!r})",
        ),
    )
    run.to_the_end()
    assert run.sink.data == list(range(20))
    assert any("SIGSTOP" in reason for reason in run.crashes)


def test_memory_that_grows_is_given_back_with_the_process_and_nothing_is_lost(tmp_path: Path) -> None:
    code = saboteur(
        "kept.append(b'x' * 5_000_000); await asyncio.sleep(0.05)", when="True", preparation="kept.clear()"
    ).replace("class Saboteur", "kept = []\n\nclass Saboteur")
    run = Run(tmp_path, code, count=60, memory_mb=250)
    numbers = run.to_the_end()
    assert run.sink.data == list(range(60))
    assert numbers.failed_attempts == 0
    assert run.crashes == []


def test_a_process_that_takes_too_much_at_once_is_killed(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("kept = b'x' * 300_000_000\nawait asyncio.sleep(60)"), memory_mb=200)
    run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    assert "may hold 200 MiB" in run.letters[0].reason


def test_a_message_that_fills_the_memory_is_found_though_it_was_called_back_meanwhile(tmp_path: Path) -> None:
    # Given a handler that keeps the results before it back as well, while its memory comes to the limit at
    # which the process is to be replaced, and a while later to the one at which it is killed.
    deed = """
        kept = [b"x" * 1_000_000 for _ in range(130)]
        time.sleep(2)
        kept += [b"x" * 1_000_000 for _ in range(100)]
        time.sleep(60)
    """
    run = Run(tmp_path, saboteur(deed), memory_mb=200)
    run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    assert [letter.message().data for letter in run.letters] == [5]


def test_memory_that_may_not_be_had_is_a_memory_error(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("kept = bytearray(4_000_000_000)"), memory_mb=200)
    numbers = run.to_the_end()
    assert run.letters[0].reason.startswith("MemoryError")
    assert numbers.failed_attempts == 3
    assert run.sink.data == run.others


def test_a_handler_that_swallows_its_cancellation_costs_its_own_message_alone(tmp_path: Path) -> None:
    deed = """
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
    """
    run = Run(
        tmp_path,
        saboteur(deed),
        count=8,
        timeouts={"message_ms": 3_000, "init_ms": 30_000},
        delivery={"max_attempts": 1},
    )
    numbers = run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    (letter,) = run.letters
    assert letter.message().data == 5
    assert letter.reason.startswith("TimeoutError")
    assert numbers.failed_attempts == 1


def test_a_flood_of_output_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deed = """
        sys.stdout.write("x" * 20_000_000)
        for number in range(20_000):
            print("flood", number, file=sys.stderr)
        print()
        print("the last word")
    """
    run = Run(tmp_path, saboteur(deed))
    with caplog.at_level("INFO"):
        run.to_the_end()
    assert run.sink.data == list(range(20))
    said = [record.getMessage() for record in caplog.records if record.name == "echo.plugin.subject"]
    assert any("more bytes of this line are left out" in line for line in said)
    assert any("more lines were printed than are kept" in line for line in said)
    assert sum("flood" in line for line in said) < 2_000
    assert max(map(len, said)) < 5_000


@pytest.mark.parametrize(
    ("deed", "says"),
    [
        ("os.write(control, b'\\xff' * 64)", "claims 4294967295 bytes"),
        ("os.write(control, bytes(9))", "there is no frame of kind 0"),
        ("socket.socket(fileno=os.dup(control)).shutdown(socket.SHUT_RDWR)", ""),
    ],
    ids=["4 GiB", "garbage", "closed"],
)
def test_a_process_that_breaks_the_protocol_is_ended(tmp_path: Path, deed: str, says: str) -> None:
    find = """
        fds = [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]
        control = min(fd for fd in fds if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"))
    """
    run = Run(tmp_path, saboteur(textwrap.dedent(find) + deed + "\nawait asyncio.sleep(60)"))
    run.to_the_end()
    assert sorted(set(run.sink.data)) == run.others
    assert run.letters[0].message().data == 5
    assert says in run.letters[0].reason


def test_a_grandchild_in_a_session_of_its_own_neither_delays_the_restart_nor_stays(tmp_path: Path) -> None:
    mark = tmp_path / "grandchild"
    deed = f"""
        if os.path.exists({str(mark)!r}):
            return message.data
        pid = os.fork()
        if pid == 0:
            os.setsid()
            with open({str(mark)!r}, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(600)
        while not os.path.exists({str(mark)!r}) or not os.path.getsize({str(mark)!r}):
            time.sleep(0.01)
        os._exit(0)
    """
    run = Run(tmp_path, saboteur(deed))
    run.to_the_end()
    assert run.sink.data == list(range(20))
    assert not _is_alive(int(mark.read_text()))


@pytest.mark.parametrize("environment", ["os.environ", "{}"])
def test_what_a_plugin_started_ends_with_it(tmp_path: Path, environment: str) -> None:
    mark = tmp_path / "started"
    deed = f"""
        started = subprocess.Popen(["/bin/sleep", "600"], start_new_session=True, env={environment})
        with open({str(mark)!r}, "w") as file:
            file.write(str(started.pid))
        del started
    """
    run = Run(tmp_path, saboteur(deed))
    run.to_the_end()
    assert run.sink.data == list(range(20))
    assert not _is_alive(int(mark.read_text()))


def _is_alive(pid: int) -> bool:
    """Whether it runs; one that is dead and waits for somebody to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_a_process_that_starts_too_many_others_is_killed_with_them(tmp_path: Path) -> None:
    deed = """
        while True:
            await asyncio.create_subprocess_exec(sys.executable, "-IS", "-c", "import time; time.sleep(600)")
    """
    run = Run(tmp_path, saboteur(deed), count=8, processes=5)
    run.to_the_end()
    assert sorted(set(run.sink.data)) == [number for number in range(8) if number != 5]
    (letter,) = run.letters
    assert "more than 5 processes of its own" in letter.reason


def test_the_host_checks_what_a_process_publishes_itself(tmp_path: Path) -> None:
    deed = """
        import msgspec
        from echo_core.runtime.isolation.outputs import outputs_in_hand
        from echo_core.runtime.isolation.wire import Output
        from echo_core.message import BaseMessage, encode

        await self.context.publish("out", "innocent")
        topic = {5: "elsewhere", 6: "out", 7: "*"}[message.data]
        source = "somebody" if message.data == 6 else "subject"
        forged = encode(BaseMessage(source=source, data="forged"))
        outputs_in_hand.get().append(Output(topic, msgspec.Raw(forged)))
    """
    run = Run(tmp_path, saboteur(deed, when="message.data in (5, 6, 7)"))
    everything = Handler()
    run.tiers.world.add(everything, manifest("everything", hears=("#",)))
    run.to_the_end()
    assert sorted(run.sink.data) == [number for number in range(20) if number not in (5, 6, 7)]
    assert "forged" not in everything.data
    reasons = {letter.message().data: letter.reason for letter in run.letters}
    assert reasons[5].startswith("PublishRefused: subject may not publish to 'elsewhere'")
    assert reasons[6].startswith("PublishRefused: subject may not publish a message of 'somebody'")
    assert "'*'" in reasons[7]


def test_a_process_killed_from_outside_loses_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("await asyncio.sleep(0)", when="message.data % 50 == 0"), count=3_000)

    async def kill(run: Run) -> None:
        killed = set[int]()
        for goal in (200, 900, 1_600):
            while len(run.sink.data) < goal or run.tiers.pid() in {0, *killed}:
                await asyncio.sleep(0.005)
            killed.add(run.tiers.pid())
            os.kill(run.tiers.pid(), signal.SIGKILL)

    numbers = run.to_the_end(kill)
    assert run.letters == []
    assert sorted(set(run.sink.data)) == list(range(3_000))
    assert len(run.sink.data) == 3_000  # one accepted result for each
    assert numbers.processed == 3_000


def test_the_spare_takes_the_place_of_a_process_that_dies_and_another_is_made_ready(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("pass"), count=0, spare=True)
    run.tiers.world.add(Endless(), manifest("endless", says=("in",), plugin_type="source"))

    def is_running(host: Host) -> bool:
        return host.snapshot().plugins[0].state is PluginState.RUNNING

    async def spare() -> int:
        while len(found := children() - run.children - {run.tiers.pid()}) != 1:
            await asyncio.sleep(0.01)
        return found.pop()

    async def scenario() -> None:
        async with running(run.tiers.world) as host:
            first = await spare()
            os.kill(run.tiers.pid(), signal.SIGKILL)
            while run.tiers.pid() != first or not is_running(host):
                await asyncio.sleep(0.01)
            before = len(run.sink.data)
            while len(run.sink.data) < before + 10:
                await asyncio.sleep(0.01)
            second = await spare()
            os.kill(second, signal.SIGKILL)  # one that dies as a spare harms nobody
            await asyncio.sleep(0.05)
            assert is_running(host)
            os.kill(run.tiers.pid(), signal.SIGKILL)
            while run.tiers.pid() in (0, first):
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert children() <= run.children


def test_a_process_that_dies_while_it_loads_or_starts_fails_its_plugin_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, "import ctypes\nctypes.string_at(0)\n\ndef create_plugin(): ...\n")
    numbers = run.to_the_end()
    assert numbers.state is PluginState.FAILED
    assert "cannot be loaded: its process" in numbers.reason
    assert "SIGSEGV" in numbers.reason
    assert "subject/__init__.py" in numbers.reason


def test_a_process_that_dies_in_init_fails_its_plugin_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("pass", preparation="print('no licence', file=sys.stderr); os._exit(3)"))
    numbers = run.to_the_end()
    assert numbers.state is PluginState.FAILED
    assert "ended by itself with exit code 3" in numbers.reason
    assert "no licence" in numbers.reason


def test_a_process_that_crashes_in_init_leaves_its_stack_behind(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("pass", preparation="ctypes.string_at(0)"))
    numbers = run.to_the_end()
    assert "SIGSEGV" in numbers.reason
    assert re.search(r'subject/__init__.py", line \d+ in init', numbers.reason)


def test_a_source_whose_process_dies_is_run_again(tmp_path: Path) -> None:
    mark = tmp_path / "died"
    code = f"""
        import os
        from echo_core import Source

        class Dying(Source):
            async def produce(self):
                for number in range(10):
                    if number == 5 and not os.path.exists({str(mark)!r}):
                        open({str(mark)!r}, "w").close()
                        os._exit(1)
                    yield number

        def create_plugin():
            return Dying()
    """
    tiers, sink = Tiers(tmp_path), Handler()
    tiers.add(code, subscriptions=[], plugin_type="source")
    tiers.world.add(sink, manifest("drain", hears=("out",)))
    numbers = asyncio.run(tiers.world.run())
    assert sink.data == [0, 1, 2, 3, 4, *range(10)]
    assert numbers["subject"].state is PluginState.STOPPED


def test_a_process_that_dies_over_and_over_is_given_up_and_its_messages_are_kept(tmp_path: Path) -> None:
    run = Run(tmp_path, saboteur("os._exit(1)", when="message.data >= 5"), count=12)
    neighbour = Handler()
    run.tiers.world.add(neighbour, manifest("neighbour", hears=("in",)))
    numbers = run.to_the_end()
    assert numbers.state is PluginState.QUARANTINED
    assert "started no more, because it died too often" in numbers.reason
    assert run.sink.data == [0, 1, 2, 3, 4]
    assert neighbour.data == list(range(12))
    reasons = {letter.message().data: letter.reason for letter in run.letters}
    assert sorted(reasons) == list(range(5, 12))
    assert [reasons[number].partition(":")[0] for number in (5, 6, 11)] == [
        "PluginCrashed",
        "PluginCrashed",
        "PluginQuarantined",
    ]
