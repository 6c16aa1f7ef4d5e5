"""`echo-core upgrade`: letting another version take the place of the one that runs."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from echo_core.cli.arguments import PluginName
from echo_core.cli.output import printable, to_builtins
from echo_core.cli.session import SessionArgument
from echo_core.cli.usage import UsageError
from echo_core.control.client import HostClient, reach_host
from echo_core.control.documents import Upgraded
from echo_core.runtime.upgrade.plan import Strategy
from echo_core.runtime.upgrade.status import Difference, TrialStatus
from echo_core.workspace import BuildType

Version = Annotated[str | None, Parameter(help="The version; else the newest that is built.")]
StrategyArgument = Annotated[Strategy, Parameter(help="How.", show_default=True)]
Build = Annotated[BuildType | None, Parameter(help="The kind of library; else that of the one that runs.")]
Percent = Annotated[
    float | None,
    Parameter(help="canary: the new version's part of the keys, 10 unless said; of one that goes on, too."),
]
Steps = Annotated[
    tuple[float, ...],
    Parameter(consume_multiple=True, help="canary: the parts after that, by themselves; 100 promotes."),
]
Finish = Annotated[bool, Parameter(help="Promote the new version.")]
Abort = Annotated[bool, Parameter(help="Keep the old version.")]
Switch = Annotated[bool, Parameter(help="blue-green: let the other version have all.")]
Show = Annotated[bool, Parameter(help="Say how the upgrade stands.")]


def upgrade(
    name: PluginName,
    version: Version = None,
    /,
    *,
    strategy: StrategyArgument = "graceful",
    build_type: Build = None,
    percent: Percent = None,
    steps: Steps = (),
    finish: Finish = False,
    abort: Abort = False,
    switch: Switch = False,
    show: Show = False,
    session: SessionArgument,
) -> None:
    """Let another version take the place of the one that runs.

    graceful: the new one is ready first, then takes over; immediate: and does not wait for what is in hand.
    canary: it gets a part, and is sent back by itself if it does worse; blue-green: both stay ready; shadow:
    it gets copies, and what it would have said is compared. These three go on until --finish or --abort.
    For example: echo-core upgrade loud_words 2.0.0 --strategy canary --percent 10
    """
    wanted = {"promote": finish, "send-back": abort, "switch": switch, "": show}
    actions = [action for action, is_wanted in wanted.items() if is_wanted]
    if len(actions) > 1:
        raise UsageError("--finish, --abort, --switch and --show exclude each other")
    host = reach_host(session.workspace())
    path = f"/v1/plugins/{name}/upgrade"
    if show:
        done = host.get(path, Upgraded)
    elif actions:
        done = host.post(f"{path}/{actions[0]}", Upgraded)
    elif percent is not None and version is None and _is_canary(host, path):
        done = host.post(f"{path}/deal", Upgraded, {"percent": percent})
    else:
        plan = {"strategy": strategy, "steps": steps} | ({} if percent is None else {"percent": percent})
        wish: dict[str, Any] = {"version": version, "build_type": build_type, "plan": plan}
        done = host.post(path, Upgraded, wish)
    session.out.result("upgrade", to_builtins(done), text_of(done))


def _is_canary(host: HostClient, path: str) -> bool:
    trial = host.get(path, Upgraded).trial
    return trial is not None and trial.strategy == "canary"


def text_of(done: Upgraded) -> str:
    """How the upgrade stands, for people."""
    if done.trial is not None:
        return _trial_text(done.name, done.trial)
    lines = [printable(done.outcome)] if done.outcome else []
    if done.plugin is not None:
        lines.append(f"{done.name} {done.plugin.version} ({done.plugin.build_type}) runs")
    return "\n".join(lines) or f"{done.name} does not run"


def _trial_text(name: str, trial: TrialStatus) -> str:
    lines = [
        f"{name}: {trial.strategy} for {trial.seconds:,.1f} s",
        f"  {trial.old_version}  ended {trial.old_ended:,}, failed at first {trial.old_failed:,}"
        + _within(trial.old_p95_ms),
        f"  {trial.new_version}  ended {trial.new_ended:,}, failed at first {trial.new_failed:,}"
        + _within(trial.new_p95_ms),
    ]
    if trial.strategy != "shadow":
        lines.append(f"  {trial.new_version} gets {trial.percent:g} %")
    if trial.comparison is not None:
        found = trial.comparison
        lines.append(
            f"  output: {found.same:,} same, {found.different:,} other, {found.not_compared:,} not compared"
        )
        for each in found.differences[-3:]:
            lines += [f"  {each.message_id} on {printable(each.topic)}", *_answers(trial, each)]
    actions = ", ".join(["--show", *_MORE.get(trial.strategy, ()), "--finish"])
    lines.append(f"next: echo-core upgrade {name} {actions} or --abort")
    return "\n".join(lines)


def _within(p95_ms: float | None) -> str:
    return "" if p95_ms is None else f", 95 % handled within {p95_ms:,.1f} ms"


_MORE: Final = {"canary": ["--percent NUMBER"], "blue-green": ["--switch"]}
"""What else can be done to a trial, by its strategy."""


def _answers(trial: TrialStatus, difference: Difference) -> Iterator[str]:
    """What either version said, an output a line."""
    for version, outputs in ((trial.old_version, difference.old), (trial.new_version, difference.new)):
        for topic, data in outputs:
            yield f"    {version}  {printable(topic)}  {printable(msgspec.json.encode(data).decode())}"
        failed = difference.new_failed if version == trial.new_version else ""
        if failed:
            yield f"    {version}  failed: {printable(failed)}"
        elif not outputs:
            yield f"    {version}  nothing"
