"""Tasks and threads that a plugin began and did not end."""

import asyncio
import threading
from collections.abc import Iterable
from time import monotonic
from types import FrameType
from typing import Any

from echo_core.runtime import stacks
from echo_core.runtime.leftovers.leftover import Leftover
from echo_core.runtime.leftovers.owner import Owner


def tasks_of(owner: Owner) -> dict[asyncio.Task[Any], list[FrameType]]:
    """The tasks on this loop that the plugin's own code began, with where they wait."""
    found = {}
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        frames = stacks.frames_of_task(task)
        if owner.began(frames):
            found[task] = frames
    return found


async def end_tasks(owner: Owner, tasks: Iterable[asyncio.Task[Any]], seconds: float) -> list[Leftover]:
    """Cancel them, and wait for at most so long."""
    places = {task: _place(owner, task) for task in tasks}
    for task in places:
        task.cancel()
    _, running = await asyncio.wait(places, timeout=seconds) if places else ((), ())
    return [
        Leftover("task", place, "still runs after it was cancelled" if task in running else "cancelled")
        for task, place in places.items()
    ]


def _join(threads: Iterable[threading.Thread], seconds: float) -> None:
    deadline = monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - monotonic()))


def _place(owner: Owner, task: asyncio.Task[Any]) -> str:
    name = getattr(task.get_coro(), "__qualname__", task.get_name())
    place = owner.place(stacks.frames_of_task(task))
    return f"{name} at {place}" if place else name


def threads_of(owner: Owner) -> dict[threading.Thread, list[FrameType]]:
    """The threads that run the plugin's own code, or code that it has called."""
    found = {}
    for thread in threading.enumerate():
        frames = stacks.frames_of_thread(thread.ident or 0)
        if thread is not threading.current_thread() and owner.began(frames):
            found[thread] = frames
    return found


async def lasting(owner: Owner, threads: Iterable[threading.Thread], seconds: float) -> list[Leftover]:
    """Those that still run after at most so long. A thread cannot be ended from outside."""
    threads = list(threads)
    if threads:
        await asyncio.to_thread(_join, threads, seconds)
    return [
        Leftover("thread", f"{thread.name!r} at {owner.place(frames)}", "still runs")
        for thread, frames in threads_of(owner).items()
        if thread in threads
    ]
