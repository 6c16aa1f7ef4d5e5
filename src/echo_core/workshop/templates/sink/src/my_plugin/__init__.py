"""Appends each message as a line of JSON to a file."""

from pathlib import Path

from echo_core import BaseMessage, PluginContext, Sink

from my_plugin.json_lines import JsonLines


class MyPlugin(Sink):
    """Writes each message once, also when it comes again."""

    async def init(self, context: PluginContext) -> None:
        await super().init(context)
        self.file = JsonLines(Path(context.config["path"]), remember=context.config["remember"])
        await context.run_blocking(self.file.prepare)

    async def write(self, message: BaseMessage) -> None:
        line = {"id": message.id, "time": message.time.isoformat(), "data": message.data}
        await self.context.run_blocking(self.file.append, line)


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
