"""Sends captions to one topic a language."""

from typing import Any

from echo_core import BaseMessage, PluginContext, Router
from language_router.routes import Routes


class LanguageRouter(Router):
    """`captions.<language>` for the languages that are known, `captions.<default>` for the others."""

    async def init(self, context: PluginContext) -> None:
        """Prepare the routes."""
        await super().init(context)
        self._routes = Routes(context.config["languages"], context.config["default"])

    async def route(self, message: BaseMessage) -> tuple[str, ...]:
        """The topic of the caption's language; none if others have no topic."""
        data: Any = message.data
        return self._routes.topics(data.get("language") if isinstance(data, dict) else None)


def create_plugin() -> LanguageRouter:
    """The entry point named in manifest.json."""
    return LanguageRouter()
