"""Drops records whose text is too short or holds a blocked word."""

import re

from echo_core import BaseMessage, Filter

WORD = re.compile(r"\w+")


class MyPlugin(Filter):
    """Lets a record through unchanged, or ends it."""

    async def keep(self, message: BaseMessage) -> bool:
        config = self.context.config
        text = message.data[config["field"]].strip().casefold()
        blocked = {word.casefold() for word in config["blocked_words"]}
        return len(text) >= config["min_length"] and blocked.isdisjoint(WORD.findall(text))


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
