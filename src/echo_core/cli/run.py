"""`echo-core run`: the one place where settings, telemetry, transport, plugins and host come together."""

import asyncio
import difflib
import functools
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated, Any, Final

from cyclopts import Parameter

from common_telemetry import TelemetryConfig, TelemetryConfigError, TelemetryContext, set_global_telemetry
from echo_core.cli.app import Interrupted
from echo_core.cli.arguments import plugin_names
from echo_core.cli.drive import Service, drive
from echo_core.cli.ending import leave, run_loop
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.progress import progress_for
from echo_core.cli.session import Session, SessionArgument
from echo_core.cli.summary import summarize, summary_text
from echo_core.cli.trace_tree import TraceBook, render_trace
from echo_core.control.board import Board
from echo_core.control.log_tail import LogTail
from echo_core.control.server import serve
from echo_core.errors import NotFound, SettingsError
from echo_core.runtime.checkpoints import FILE_NAME as CHECKPOINTS
from echo_core.runtime.checkpoints import CheckpointStore
from echo_core.runtime.collector import patient_collector
from echo_core.runtime.dead_letters import FILE_NAME, DeadLetterStore
from echo_core.runtime.host import Host
from echo_core.runtime.libraries.store import Store
from echo_core.runtime.message_history.door import history_path
from echo_core.runtime.message_history.recorder import Item, Recorder
from echo_core.runtime.offer import offer_of
from echo_core.runtime.reconcile import Reconciler
from echo_core.runtime.registry import Enabled, enabled
from echo_core.runtime.settings import Settings, load_settings
from echo_core.transports.base import Transport
from echo_core.transports.urls import transport_for
from echo_core.workspace import Workspace

_SHOWN_OTHERWISE: Final = "echo_core.runtime.slot"
"""Logs the plugins' moves, which the progress shows already."""

UntilIdle = Annotated[bool, Parameter(help="End when all sources are exhausted and every message has ended.")]
Only = Annotated[
    tuple[str, ...],
    Parameter(consume_multiple=True, help="Run these plugins only.", completer=plugin_names),
]
Except = Annotated[
    tuple[str, ...],
    Parameter(
        name="--except", consume_multiple=True, help="Run all but these plugins.", completer=plugin_names
    ),
]
Plain = Annotated[bool, Parameter(help="Plain lines, even on a terminal.")]
Trace = Annotated[bool, Parameter(help="At the end, show the trace of the message that went furthest.")]


def run(
    *,
    until_idle: UntilIdle = False,
    only: Only = (),
    except_: Except = (),
    plain: Plain = False,
    trace: Trace = False,
    session: SessionArgument,
) -> int:
    """Run the activated plugins.

    Until Ctrl-C or SIGTERM: the first finishes what is under way, the second stops at once (exit code 130).
    What is activated or deactivated meanwhile comes and goes, and the others run on.
    The exit code is 1 when a plugin failed, or a message was dead-lettered or left undone.
    For example: echo-core run --until-idle
    """
    workspace = session.workspace()
    settings = load_settings(workspace)
    plugins = choose(enabled(workspace), only, except_, may_be_none=not until_idle)

    def begin(host: Host, store: Store) -> Sequence[Service]:
        add_plugins(host, plugins, store)
        if until_idle:
            return ()
        includes = functools.partial(_is_chosen, only=only, except_=except_)
        reconciler = Reconciler(host, workspace, store, known=plugins, includes=includes)
        return (reconciler.watch, control_of(host, reconciler, workspace, settings))

    return run_host(session, settings, begin, until_idle=until_idle, plain=plain, trace=trace)


def run_host(
    session: Session,
    settings: Settings,
    begin: Callable[[Host, Store], Sequence[Service]],
    *,
    until_idle: bool = False,
    plain: bool = False,
    trace: bool = False,
) -> int:
    """Run a host to its end, and print its account; the exit code.

    `begin` gives it its plugins, and says what runs beside it.
    """
    workspace = session.workspace()
    transport = transport_for(settings.host.transport, workspace.root, settings.host.local)
    telemetry = telemetry_for(settings)
    book = TraceBook()
    if trace:
        telemetry.tap(book)
    _log_to_stderr()
    recorder = recorder_for(settings, workspace, transport, telemetry)
    try:
        set_global_telemetry(telemetry)
        telemetry.install_globals()
        host = Host(
            settings=settings,
            transport=transport,
            telemetry=telemetry,
            dead_letters=DeadLetterStore(workspace.state / FILE_NAME),
            checkpoints=CheckpointStore(workspace.state / CHECKPOINTS),
            message_history=recorder,
        )
        with progress_for(session.out, plain=plain) as progress:
            beside = begin(host, Store(workspace.state))
            with patient_collector():
                (snapshot, aborted), left = run_loop(
                    drive(host, progress, until_idle=until_idle, beside=beside), _loop_factory()
                )
        summary = summarize(snapshot)
        tree = render_trace(book.widest()) if trace else []
        document = to_builtins(summary) | ({"trace": tree} if trace else {})
        session.out.result("run", document, summary_text(summary, tree))
    finally:
        if recorder is not None:
            recorder.close()
        telemetry.shutdown()  # may wait for a backend that does not answer, so nobody waits for more than it
    code = Interrupted.exit_code if aborted else (0 if summary.ok else 1)
    if left:
        session.out.note(f"left behind, because it does not end: {', '.join(sorted(left))}")
        leave(code)
    return code


def recorder_for(
    settings: Settings, workspace: Workspace, transport: Transport, telemetry: TelemetryContext
) -> Recorder | None:
    """Records what becomes of messages, from now on; None where the settings say that nobody does."""
    if not settings.history.enabled:
        return None
    stays = settings.host.local if transport.capabilities.durable else ("#",)

    def tell_dropped(plugin: str, item: Item, count: int) -> None:
        telemetry.for_plugin(plugin, "").history_dropped(item, count)

    path = history_path(settings, workspace)
    recorder = Recorder(path, settings.history, stays=stays, tell_dropped=tell_dropped)
    recorder.start()
    return recorder


def control_of(host: Host, reconciler: Reconciler, workspace: Workspace, settings: Settings) -> Service:
    """The control API of the host."""

    async def control() -> None:
        letters, logs = DeadLetterStore(workspace.state / FILE_NAME), LogTail()
        board = Board(host, reconciler, workspace, letters, logs, optional=settings.host.optional_plugins)
        try:
            await serve(host, board, logs, workspace, settings.host.control_port)
        finally:
            letters.close()

    return control


def choose(
    entries: Sequence[Enabled], only: Sequence[str], except_: Sequence[str], *, may_be_none: bool = False
) -> list[Enabled]:
    """The entries to run; raises `NotFound` for a name that is not activated, and when none is left."""
    names = [entry.name for entry in entries]
    for name in (*only, *except_):
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"echo-core activate {name}"
            raise NotFound(f"no plugin {name!r} is activated", fix=fix)
    chosen = [entry for entry in entries if _is_chosen(entry.name, only, except_)]
    if not chosen and not may_be_none:
        why = "--only and --except leave none" if entries else "core/plugins/enabled is empty"
        raise NotFound("no plugin to run", why=why, fix="echo-core list, then echo-core activate NAME")
    return chosen


def _is_chosen(name: str, only: Sequence[str], except_: Sequence[str]) -> bool:
    return (not only or name in only) and name not in except_


def add_plugins(host: Host, entries: Iterable[Enabled], store: Store) -> None:
    """Give the host each plugin, or the reason why there is none."""
    for entry in entries:
        if entry.library is not None:
            host.offer(offer_of(entry.library, store))
        elif entry.error is not None:
            host.refuse(entry.name, entry.error)


def check_settings(settings: Settings) -> None:
    """Raise `SettingsError` for what only the parts that are put together here can judge."""
    transport_for(settings.host.transport)
    with _telemetry_faults_as_ours():
        TelemetryConfig.from_mapping(settings.telemetry)


def telemetry_for(settings: Settings) -> TelemetryContext:
    """Telemetry as the settings and OTEL_* say; raises `SettingsError` with every fault."""
    with _telemetry_faults_as_ours():
        return TelemetryContext.from_config(TelemetryConfig.from_mapping(settings.telemetry))


@contextmanager
def _telemetry_faults_as_ours() -> Iterator[None]:
    try:
        yield
    except TelemetryConfigError as error:
        raise SettingsError(
            "telemetry cannot be set up",
            where="[telemetry] of echo-core.toml, or OTEL_*",
            why="\n".join(error.faults),
            fix="mend the value that is named",
        ) from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop where it is installed (`echo-core[uvloop]`), else Python's own."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    uvloop: Any = importlib.import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _ToStderr(logging.Handler):
    """A line a record, to whatever stderr is now: the live view puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        # Nobody who logs may fail because nobody reads: stderr may be a pipe that was closed.
        with suppress(OSError, ValueError):
            print(printable(self.format(record)), file=sys.stderr)


def _log_to_stderr() -> None:
    """Warnings and worse, from anywhere, for whoever watches; all the rest goes to telemetry alone."""
    handler = _ToStderr(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(lambda record: record.name != _SHOWN_OTHERWISE)
    logging.getLogger().addHandler(handler)
