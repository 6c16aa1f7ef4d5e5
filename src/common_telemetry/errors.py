"""How an exception is told, by the OpenTelemetry conventions for exceptions and `error.type`."""

import traceback
from typing import Final

LONGEST: Final = 10_000
"""Characters of an exception's message, and of its stack trace, that are reported."""


TOLD: Final = ("exception.type", "exception.message", "exception.stacktrace")
"""The attributes that tell of an exception."""


def error_type(error: BaseException) -> str:
    """Its class, with the module unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException) -> str:
    """Its class and message, which is shortened to `LONGEST` characters."""
    return f"{error_type(error)}: {_beginning(message_of(error))}"


def exception_attributes(error: BaseException) -> dict[str, str]:
    """The exception.* attributes, at most about `LONGEST` characters each."""
    told = whole_exception(error)
    told["exception.message"] = _beginning(told["exception.message"])
    told["exception.stacktrace"] = _both_ends(told["exception.stacktrace"])
    return told


def whole_exception(error: BaseException) -> dict[str, str]:
    """The exception.* attributes at any length, as the SDK has them on the spans that a plugin makes."""
    return {
        "exception.type": error_type(error),
        "exception.message": message_of(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def message_of(error: BaseException) -> str:
    """Its text, at any length."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a plugin's exception class may be broken in itself
        return "<no message: str() of it failed>"


def _beginning(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def _both_ends(text: str) -> str:
    """Where it began, and where it came to, which stands last."""
    half = LONGEST // 2
    if len(text) <= LONGEST:
        return text
    return f"{text[:half]}\n… ({len(text) - 2 * half:,} characters)\n{text[-half:]}"
