"""The three stages as functions, for programs that join them by hand over a server."""

import asyncio
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import job, work


class Stage(NamedTuple):
    """One of the three."""

    hears: str
    says: str
    """Empty for the last one."""
    handle: Callable[[Any], Any]


def stages(task: job.Job) -> tuple[tuple[Stage, Stage, Stage], asyncio.Event]:
    """In their order, and an event that says that the last message has arrived.

    Their names are of this process, so that no run gets what an earlier one left.
    """
    finished = asyncio.Event()

    def validate(segment: Any) -> Any:
        work.validate(segment)
        return segment

    def sink(caption: Any) -> None:
        task.tally.add(caption)
        if task.is_done:
            finished.set()

    raw, valid, captions = (f"bare{os.getpid()}.{topic}" for topic in (work.RAW, work.VALID, work.CAPTIONS))
    return (
        Stage(raw, valid, validate),
        Stage(valid, captions, work.transform),
        Stage(captions, "", sink),
    ), finished
