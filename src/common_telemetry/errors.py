"""How an exception is told, by the OpenTelemetry conventions for exceptions and `error.type`."""

import traceback


def error_type(error: BaseException) -> str:
    """Its class, with the module unless it is built in."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(error: BaseException) -> str:
    """Its class and message in one line."""
    return f"{error_type(error)}: {message_of(error)}"


def exception_attributes(error: BaseException) -> dict[str, str]:
    """The exception.* attributes."""
    return {
        "exception.type": error_type(error),
        "exception.message": message_of(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def message_of(error: BaseException) -> str:
    """Its text."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a plugin's exception class may be broken in itself
        return "<no message: str() of it failed>"
