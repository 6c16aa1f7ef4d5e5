"""Writes captions to WebVTT files, one a transcript and language."""

from pathlib import Path
from typing import Any

from echo_core import BaseMessage, PluginContext, PluginError, Sink
from webvtt_sink.files import CaptionFile, file_name


class WebvttSink(Sink, blocking=True):
    """Keeps a WebVTT file up to date for each transcript and language, in a thread, as files block."""

    def __init__(self) -> None:
        self._files: dict[str, CaptionFile] = {}

    async def init(self, context: PluginContext) -> None:
        """Make the directory; refused here if that cannot be."""
        await super().init(context)
        self._directory = await context.run_blocking(_make_directory, context.config["directory"])

    def write(self, message: BaseMessage) -> None:  # blocking: a plain def
        """Add a caption, or finish the file with the end of its transcript."""
        data: dict[str, Any] = message.data
        file = self._file(data)
        if not file.belongs(data.get("edition", "")):
            self.context.logger().warning("%s: a caption of an earlier edition comes too late", file.path)
            return
        if data.get("complete"):
            file.complete()
            self.context.logger().info("%s: %d captions", file.path, len(file))
            return
        key = data.get("caption") or message.id
        file.add(key, {**data, "caption": key})
        self.context.record_counter("captions.written", attributes={"language": data["language"]})

    def _file(self, data: dict[str, Any]) -> CaptionFile:
        name = file_name(data.get("transcript", "captions"), data["language"])
        if name not in self._files:
            config = self.context.config
            self._files[name] = CaptionFile(
                self._directory / name, every=config["every"], at_least_every_s=config["at_least_every_s"]
            )
        return self._files[name]

    async def shutdown(self) -> None:
        """Bring every file up to date. An unfinished one keeps its journal, for whoever goes on."""
        for file in self._files.values():
            await self.context.run_blocking(file.write)


def _make_directory(name: str) -> Path:
    directory = Path(name).expanduser()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PluginError(
            "captions cannot be written",
            where=str(directory),
            why=error.strerror or str(error),
            fix="set directory to a folder that may be written to",
        ) from error
    return directory


def create_plugin() -> WebvttSink:
    """The entry point named in manifest.json."""
    return WebvttSink()
