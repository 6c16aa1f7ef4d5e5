"""What plugin code raises: it may be anything, and must not bring down what called it."""

import asyncio
from traceback import extract_tb
from typing import Final

LONGEST: Final = 10_000
"""Characters of an error's text that are kept."""
BRIEF: Final = 300
"""Characters of it that stand in a line of a log or a table."""


def text_of(error: BaseException) -> str:
    """What the error says: shortened when it is very long, and told when it cannot say anything."""
    try:
        return shortened(str(error))
    except BaseException as broken:  # noqa: BLE001  (its __str__ is plugin code too)
        return f"<no text: its __str__ raised {type(broken).__name__}>"


def named(error: BaseException) -> str:
    """The class of the error, and what it says."""
    return f"{type(error).__name__}: {text_of(error)}".rstrip(": ")


def place_in(package: str, error: BaseException) -> str:
    """The innermost place in the package that the error came through: `file:line in function`, or empty."""
    within = f"/{package}/"
    frames = [frame for frame in extract_tb(error.__traceback__) if within in frame.filename]
    if not frames:
        return ""
    inside = frames[-1].filename.rpartition(within)[2]
    return f"{package}/{inside}:{frames[-1].lineno} in {frames[-1].name}"


def shown(value: object) -> str:
    """A value as `repr` shows it, like `text_of`."""
    try:
        return shortened(repr(value))
    except BaseException as broken:  # noqa: BLE001  (its __repr__ is plugin code too)
        return f"<{type(value).__name__}: its __repr__ raised {type(broken).__name__}>"


def shortened(text: str) -> str:
    """The text, with what goes beyond `LONGEST` characters left out, and said so."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def brief(text: str) -> str:
    """The text for one line among others: its first line, cut where it is long."""
    first, _, more = text.partition("\n")
    return first if len(first) <= BRIEF else f"{first[:BRIEF]}… ({len(first) + len(more):,} characters)"


def ends_caller(error: BaseException) -> bool:
    """Whether it is the caller's own end: its task is cancelled, or thrown away."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and bool(task.cancelling())
    return is_close(error)


def is_close(error: BaseException) -> bool:
    """Whether nobody raised it: the coroutine that it is seen in is thrown away, with its loop."""
    place = error.__traceback__
    return isinstance(error, GeneratorExit) and (place is None or place.tb_next is None)
