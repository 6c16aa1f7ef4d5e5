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
    pure: bool = False
    """Whether Echo Core runs as pure Python, though compiled modules are installed."""
    server: str = ""
    """The scheme of the server that it runs on; empty for those that need none."""

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
IN_PROCESS: Final = (
    Contestant(
        key="echo_core",
        title="Echo Core, everything traced and measured",
        program="echo_core",
        spans_per_message=6,
        measurements_per_message=3,
        quick=True,
    ),
    Contestant(
        key="echo_core_pure",
        title="Echo Core as pure Python, everything traced and measured",
        program="echo_core",
        spans_per_message=6,
        measurements_per_message=3,
        quick=True,
        pure=True,
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
        key="echo_core_dead",
        title="Echo Core, everything traced and measured, nobody listening at the endpoint",
        program="echo_core",
        variant="dead",
    ),
    Contestant(
        key="echo_core_off", title="Echo Core, telemetry off", program="echo_core", variant="off", quick=True
    ),
    Contestant(
        key="handwritten_untraced",
        title="asyncio.Queue by hand, the same program without the telemetry",
        program="handwritten_untraced",
        quick=True,
    ),
    Contestant(
        key="handwritten_lean",
        title="the leanest by hand: asyncio.Queue, three loops written out, no telemetry",
        program="handwritten_lean",
        quick=True,
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
    Contestant(key="bytewax", title="Bytewax, batches of 1,000, untraced", program="bytewax"),
    Contestant(key="node_red", title="Node-RED, three function nodes, untraced", program="node_red"),
    Contestant(key="dramatiq", title="dramatiq, stub broker, untraced", program="dramatiq"),
)


def _over(server: str, name: str, client: str) -> tuple[Contestant, ...]:
    """The same three beside each other on one server, at least once."""
    return (
        Contestant(
            key=f"echo_core_{server}",
            title=f"Echo Core, everything traced and measured, over {name}",
            program="echo_core",
            variant=server,
            spans_per_message=6,
            measurements_per_message=3,
            server=server,
        ),
        Contestant(
            key=f"faststream_{server}",
            title=f"FastStream, OpenTelemetry middleware, over {name}",
            program="faststream_broker",
            variant=server,
            spans_per_message=7,
            measurements_per_message=3,
            server=server,
        ),
        Contestant(
            key=f"{server}_bare",
            title=f"{client} by hand on {name}, no telemetry",
            program=f"{server}_bare",
            server=server,
        ),
    )


ON_SERVERS: Final = (
    *_over("nats", "NATS JetStream", "nats-py"),
    Contestant(
        key="echo_core_nats_local",
        title="Echo Core over NATS JetStream, and what plugins publish stays in the process (host.local)",
        program="echo_core",
        variant="nats_local",
        spans_per_message=6,
        measurements_per_message=3,
        server="nats",
    ),
    Contestant(
        key="faststream_nats_core",
        title="FastStream, OpenTelemetry middleware, over NATS at most once",
        program="faststream",
        variant="nats",
        spans_per_message=7,
        measurements_per_message=3,
        server="nats",
    ),
    *_over("redis", "Redis Streams", "redis-py"),
    *_over("amqp", "RabbitMQ", "aio-pika"),
    *_over("kafka", "Kafka", "aiokafka"),
)
"""What is measured by `benchmarks.brokers`: at least once, unless the title says otherwise."""
CONTESTANTS: Final = (*IN_PROCESS, *ON_SERVERS)
