"""Dead letters for tests."""

from typing import Any

import msgspec

from echo_core import BaseMessage
from echo_core.message import encode
from echo_core.runtime.dead_letters import DeadLetter


def letter(data: Any = None, **changes: Any) -> DeadLetter:
    """One that `worker` could not handle, long ago."""
    message = BaseMessage(
        source="src", data=data, trace_context={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    )
    made = DeadLetter(
        time_ns=1_000,
        plugin="worker",
        version="1.0.0",
        topic="work.todo",
        message_id=message.id,
        root_id=message.root_id,
        trace_id="ab" * 16,
        reason="ValueError: no",
        attempts=(),
        original=encode(message),
    )
    return msgspec.structs.replace(made, **changes)
