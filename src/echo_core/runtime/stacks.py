"""Where code is just now: the stack of a thread, and of a coroutine that waits."""

import asyncio
import selectors
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

ECHO_CORE: Final = str(Path(__file__).parents[1])
"""Where files of Echo Core lie."""
_LOOPS: Final = (str(Path(__file__).parent), str(Path(asyncio.__file__).parent), threading.__file__)
"""Where the work of a thread begins; what is before that has only started the process."""
_MACHINERY: Final = (ECHO_CORE, *_LOOPS)


def frames_of_thread(ident: int) -> list[FrameType]:
    """The stack of a running thread, the outermost frame first; empty if there is no such thread."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(ident)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def frames_of_task(task: asyncio.Task[Any]) -> list[FrameType]:
    """Where a task waits: the frames of its coroutines, the outermost first."""
    frames: list[FrameType] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = next(_attributes(waiting, ("cr_frame", "gi_frame", "ag_frame")), None)
        if frame is not None:
            frames.append(frame)
        waiting = next(_attributes(waiting, ("cr_await", "gi_yieldfrom", "ag_await")), None)
    return frames


def _attributes(value: object, names: Iterable[str]) -> Iterator[Any]:
    for name in names:
        found = getattr(value, name, None)
        if found is not None:
            yield found


def own_frames(frames: Iterable[FrameType]) -> list[FrameType]:
    """Those that are no machinery of Echo Core's, asyncio's or threading's, nor what started the process."""
    known = list(frames)
    begins = next((at for at, frame in enumerate(known) if _is_of(frame, _LOOPS)), 0)
    return [frame for frame in known[begins:] if not _is_of(frame, _MACHINERY)]


def is_waiting(frames: Sequence[FrameType]) -> bool:
    """Whether a thread with this stack waits for something to happen: a loop that has nothing to do."""
    return bool(frames) and frames[-1].f_code.co_filename == selectors.__file__


def _is_of(frame: FrameType, files: tuple[str, ...]) -> bool:
    return frame.f_code.co_filename.startswith(files)


def place(frames: Sequence[FrameType]) -> str:
    """The innermost of these, as `file:line in function`; empty for none."""
    if not frames:
        return ""
    return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno} in {frames[-1].f_code.co_name}"


def text(frames: Iterable[FrameType]) -> str:
    """The frames as a traceback shows them."""
    summaries = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(traceback.format_list(summaries)).rstrip()
