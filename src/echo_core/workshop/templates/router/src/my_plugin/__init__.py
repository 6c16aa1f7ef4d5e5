"""Sends each record to the topic of its language."""

import re

from echo_core import BaseMessage, Router

TOPIC_WORD = re.compile(r"[A-Za-z0-9_-]+")


class MyPlugin(Router):
    """Names the topic; the record goes there unchanged."""

    async def route(self, message: BaseMessage) -> str:
        config = self.context.config
        value = message.data.get(config["field"])
        is_word = isinstance(value, str) and TOPIC_WORD.fullmatch(value)
        return f"{config['prefix']}.{value if is_word else config['otherwise']}"


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
