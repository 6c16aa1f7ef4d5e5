"""Looking after what a plugin has left, once its `shutdown` has returned."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, Final

from echo_core.plugin import Plugin
from echo_core.runtime import stacks
from echo_core.runtime.daemon import in_daemon_thread
from echo_core.runtime.leftovers.held import Held
from echo_core.runtime.leftovers.leftover import Leftover
from echo_core.runtime.leftovers.owner import Owner, is_hosts
from echo_core.runtime.leftovers.running import end_tasks, lasting, tasks_of, threads_of
from echo_core.runtime.leftovers.surroundings import Key, left_in
from echo_core.runtime.libraries.importer import scope_of

_GRACE_S: Final = 0.5
"""How long tasks may take to end once cancelled, and threads to end by themselves."""


async def sweep(plugin: Plugin, changed: Mapping[Key, tuple[Any, Any]], seconds: float) -> Sequence[Leftover]:
    """End what the plugin has left behind, as far as that is safe, and tell what that was.

    `changed` is what appeared in its `Window`s. Nothing for a plugin that was not made from a library: which
    code is its own can then not be told. What it registered with atexit may take `seconds`.
    """
    scope = scope_of(plugin)
    if scope is None:
        return ()
    owner, grace = Owner(scope), min(_GRACE_S, seconds)
    tasks, threads = tasks_of(owner), threads_of(owner)
    held = Held(owner)
    variables = _locals(owner, [*tasks.values(), *threads.values()])
    await held.search([plugin, *map(vars, owner.modules()), *variables, *_known_to_loop(owner)])
    found = await end_tasks(owner, {*tasks, *_unattended(held.tasks)}, grace)
    found += [_ended(leftover, end) for leftover, end in held.finds]
    for wait in held.children:  # or they would stay in the process table
        await asyncio.to_thread(wait, grace)
    found += await lasting(owner, threads, grace)
    found += left_in(owner, changed, held.handlers)
    found += await _call_exits(owner, seconds)
    return found


def _locals(owner: Owner, frames: Iterable[Sequence[FrameType]]) -> list[dict[str, Any]]:
    """The local variables of its own code in these stacks."""
    return [
        frame.f_locals
        for stack in frames
        for frame in stack
        if owner.has_module(frame.f_globals.get("__name__"))
    ]


def _known_to_loop(owner: Owner) -> Iterator[object]:
    """Calls and connections of its own that only the event loop holds; asyncio's shows them."""
    loop = asyncio.get_running_loop()
    for handle in getattr(loop, "_scheduled", ()):
        if owner.has(getattr(handle, "_callback", None)):
            yield handle
    for transport in list(getattr(loop, "_transports", {}).values()):
        protocol = transport.get_protocol()
        # A stream's protocol is asyncio's; whose it is shows in what it calls.
        if owner.has(protocol) or owner.has(getattr(protocol, "_client_connected_cb", None)):
            yield transport


def _unattended(tasks: Iterable[asyncio.Task[Any]]) -> Iterator[asyncio.Task[Any]]:
    """Those of the tasks that run, and are not the host's."""
    for task in tasks:
        if (
            not task.done()
            and task is not asyncio.current_task()
            and not is_hosts(stacks.frames_of_task(task))
        ):
            yield task


def _ended(leftover: Leftover, end: Callable[[], object]) -> Leftover:
    try:
        end()
    except Exception as error:  # noqa: BLE001  (it may be of a class of the plugin's)
        return replace(leftover, outcome=f"{type(error).__name__}: {error}")
    return leftover


async def _call_exits(owner: Owner, seconds: float) -> list[Leftover]:
    """Call what was registered with atexit. What the plugin's dependencies registered is no fault of its."""
    exits = owner.scope.exits
    try:
        called = await in_daemon_thread(exits.call, max(seconds, _GRACE_S)) if exits.waiting else []
    except TimeoutError:
        exits.forget()  # or the end of the process would wait for the next one of them
        return [Leftover("atexit callback", "one of them", f"did not return within {seconds:.3g} s")]
    return [
        Leftover("atexit callback", owner.named(function), "called")
        for function in called
        if owner.is_of_plugin(function)
    ]
