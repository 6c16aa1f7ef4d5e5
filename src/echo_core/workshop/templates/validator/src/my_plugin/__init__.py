"""Stops records in which a required field is missing or empty."""

from echo_core import BaseMessage, Invalid, Validator


class MyPlugin(Validator):
    """Lets a record through unchanged, or says what is missing from it."""

    async def validate(self, message: BaseMessage) -> None:
        if not isinstance(message.data, dict):
            raise Invalid(f"the data is no object, but {type(message.data).__name__}")
        required = self.context.config["required"]
        missing = [field for field in required if message.data.get(field) in (None, "")]
        if missing:
            raise Invalid(f"missing or empty: {', '.join(missing)}")


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
