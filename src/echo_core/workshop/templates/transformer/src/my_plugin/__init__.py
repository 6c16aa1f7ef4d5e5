"""Tidies the white space of a text and sets its case."""

from collections.abc import Callable
from typing import Any

from echo_core import BaseMessage, Transformer

CASES: dict[str, Callable[[str], str]] = {
    "keep": str,
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
}


class MyPlugin(Transformer):
    """Makes a new record; the one that came in stays as it is."""

    async def transform(self, message: BaseMessage) -> dict[str, Any]:
        field, set_case = self.context.config["field"], CASES[self.context.config["case"]]
        tidy = " ".join(message.data[field].split())
        return {**message.data, field: set_case(tidy)}


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
