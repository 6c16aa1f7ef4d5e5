"""Stops what is no segment of a transcript, with every reason at once."""

from echo_core import BaseMessage, Invalid, Validator
from transcript_validator.checks import faults


class TranscriptValidator(Validator):
    """Good segments and end-of-transcript messages go on unchanged; the rest is dead-lettered."""

    async def validate(self, message: BaseMessage) -> None:
        """Raise `Invalid` with all that is wrong with the message's data."""
        config = self.context.config
        found = list(
            faults(message.data, max_segment_s=config["max_segment_s"], max_time_s=config["max_time_s"])
        )
        if found:
            raise Invalid("; ".join(found))


def create_plugin() -> TranscriptValidator:
    """The entry point named in manifest.json."""
    return TranscriptValidator()
