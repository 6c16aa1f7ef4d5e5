"""Takes fillers and stuttered words out of segments, and ends segments that consist of nothing else."""

from collections.abc import Mapping
from typing import Any

from echo_core import BaseMessage, Filter, PluginContext, ProcessingStatus
from filler_filter.cleaning import Cleaner


class FillerFilter(Filter):
    """A filter of words within messages: a message left without words is filtered, the others go on.

    A plain `Filter` passes data on unchanged; this one passes on what is left of it. The words that
    stay are not touched: none is rewritten, and each keeps its times.
    """

    async def init(self, context: PluginContext) -> None:
        """Prepare the word lists."""
        await super().init(context)
        config = context.config
        self._cleaner = Cleaner(config["fillers"], config["never_remove"], config["remove_repeated"])

    async def keep(self, message: BaseMessage) -> bool:
        """Whether anything but fillers is said; the end of a transcript is always kept."""
        return bool(message.data.get("complete") or self._cleaner.kept(message.data))

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Publish what is left of the segment."""
        data: Mapping[str, Any] = message.data
        if not await self.keep(message):
            return ProcessingStatus.FILTERED
        if not data.get("complete"):
            clean = self._cleaner.clean(data)
            removed = len(data["text"].split()) - len(clean["text"].split())
            self.context.record_counter("transcript.words.removed", removed, {"language": data["language"]})
            data = clean
        await self.context.publish(self.context.publications[0], data)
        return ProcessingStatus.ACKNOWLEDGED


def create_plugin() -> FillerFilter:
    """The entry point named in manifest.json."""
    return FillerFilter()
