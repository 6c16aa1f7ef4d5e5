"""Everything a plugin can report, in one small plugin. Its README shows what comes out."""

from echo_core import BaseMessage, Plugin, PluginContext, ProcessingStatus
from telemetry_example.counting import texts_in, words_in


class TelemetryExample(Plugin):
    """Counts the words of every message, and publishes nothing."""

    async def init(self, context: PluginContext) -> None:
        """Outside a message: what is reported carries the plugin, and no message."""
        await super().init(context)
        self._most_words = 0
        context.logger().info("watching %s", ", ".join(context.subscriptions))

    async def process_message(self, topic: str, message: BaseMessage) -> ProcessingStatus:
        """Within a message: everything carries its topic and id, with no word about them here."""
        context = self.context

        # A span with custom attributes, some known before the work and some after it; and one within it.
        with context.create_span("measure", {"example.kind": type(message.data).__name__}) as span:
            with context.create_span("find texts"):
                texts = texts_in(message.data)
            words = words_in(texts)
            is_long = words >= context.config["long_text"]
            span.set_attribute("example.words", words)
            if is_long:
                span.add_event("long message", {"example.limit": context.config["long_text"]})

        # A counter adds up, a histogram keeps the distribution, a gauge the last value.
        context.record_counter("example.messages", 1, {"example.long": is_long})
        context.record_histogram("example.words", words)
        self._most_words = max(self._most_words, words)
        context.record_gauge("example.words.most", self._most_words)

        # A log record finds its trace and its message by itself.
        context.logger().info("counted %d words", words, extra={"example.words": words})
        return ProcessingStatus.ACKNOWLEDGED


def create_plugin() -> TelemetryExample:
    """The entry point named in manifest.json."""
    return TelemetryExample()
