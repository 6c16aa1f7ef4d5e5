"""Echo Core and its peers, a program each: the same work as its users would write it. Here is their list."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A program to run, and what it must deliver."""

    key: str
    title: str
    program: str
    variant: str = ""
    spans_per_message: int = 0
    measurements_per_message: int = 0
    """Of messaging.process.duration."""
    quick: bool = False
    """Whether `make bench-quick` runs it."""

    @property
    def module(self) -> str:
        """For `python -m`."""
        return f"benchmarks.peers.{self.program}"

    @property
    def is_traced(self) -> bool:
        """Whether it must deliver spans."""
        return self.spans_per_message > 0


# A publication and a handling have a span each, and there are three of both; FastStream makes one more,
# "create", for what enters from outside.
CONTESTANTS: Final = (
    Contestant(
        key="echo_core",
        title="Echo Core, everything traced and measured",
        program="echo_core",
        spans_per_message=6,
        measurements_per_message=3,
        quick=True,
    ),
    Contestant(
        key="handwritten_traced",
        title="asyncio.Queue by hand, official SDK",
        program="handwritten_traced",
        spans_per_message=6,
        measurements_per_message=3,
        quick=True,
    ),
    Contestant(
        key="faststream",
        title="FastStream, OpenTelemetry middleware, in-memory test broker",
        program="faststream",
        spans_per_message=7,
        measurements_per_message=3,
        quick=True,
    ),
    Contestant(
        key="echo_core_off", title="Echo Core, telemetry off", program="echo_core", variant="off", quick=True
    ),
    Contestant(
        key="handwritten", title="asyncio.Queue by hand, no telemetry", program="handwritten", quick=True
    ),
    Contestant(
        key="echo_core_nats",
        title="Echo Core, everything traced and measured, over NATS JetStream (at least once)",
        program="echo_core",
        variant="nats",
        spans_per_message=6,
        measurements_per_message=3,
    ),
    Contestant(
        key="faststream_nats",
        title="FastStream, OpenTelemetry middleware, over NATS (at most once)",
        program="faststream",
        variant="nats",
        spans_per_message=7,
        measurements_per_message=3,
    ),
    Contestant(
        key="faststream_jetstream",
        title="FastStream, OpenTelemetry middleware, over NATS JetStream (at least once)",
        program="faststream",
        variant="jetstream",
        spans_per_message=7,
        measurements_per_message=3,
    ),
    Contestant(
        key="echo_core_batch",
        title="Echo Core, batches of 1,000, telemetry off",
        program="echo_core",
        variant="batch",
    ),
    # Batched, each message has a span where it is published, and a batch one where it is handled; so there is
    # a measurement for each batch.
    Contestant(
        key="echo_core_batch_traced",
        title="Echo Core, batches of 1,000, everything traced and measured",
        program="echo_core",
        variant="batch_traced",
        spans_per_message=3,
    ),
    Contestant(key="nats_bare", title="nats-py by hand on JetStream, no telemetry", program="nats_bare"),
    Contestant(key="bytewax", title="Bytewax, batches of 1,000, untraced", program="bytewax"),
    Contestant(key="node_red", title="Node-RED, three function nodes, untraced", program="node_red"),
    Contestant(key="dramatiq", title="dramatiq, stub broker, untraced", program="dramatiq"),
)
