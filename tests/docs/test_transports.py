"""`docs/transports.md`: its table is made from the transports' `Capabilities`, its options are the code's."""

import importlib
import re
from pathlib import Path
from typing import Final

import pytest

from echo_core.transports.amqp import AmqpTransport
from echo_core.transports.base import Capabilities
from echo_core.transports.kafka.transport import KafkaTransport
from echo_core.transports.memory import MemoryTransport
from echo_core.transports.nats import NatsTransport
from echo_core.transports.redis import RedisTransport
from echo_core.transports.sqlite.transport import SqliteTransport
from support.brokers import SCHEMES

PAGE = Path(__file__).parents[2] / "docs" / "transports.md"
TRANSPORTS: Final[dict[str, Capabilities]] = {
    "memory": MemoryTransport.capabilities,
    "sqlite": SqliteTransport.capabilities,
    "nats": NatsTransport.capabilities,
    "redis": RedisTransport.capabilities,
    "amqp": AmqpTransport.capabilities,
    "kafka": KafkaTransport.capabilities,
}
ROWS: Final = {
    "durable": "what was accepted survives the end of the host",
    "shared": "several hosts can share a plugin's messages",
    "bounded_by_publisher": "publishing waits while a queue in this process is full",
    "slows_by_source": "the source that fills a queue is slowed before it is full",
    "delayed_retry": "a message handed back with a delay waits for it, and holds up no other",
    "ordered": "one host handles a plugin's messages in their order, after a lost connection too",
    "ordered_over_hosts": "several hosts together keep those of a key in order",
    "reports_acceptance": "a source can learn how its messages ended",
    "presence": "hosts know of each other (`echo-core status --cluster`)",
    "redelivers_to_one": "a dead letter that is replayed reaches the plugin that failed, and no other",
}


def table() -> str:
    """What stands in the page."""
    schemes = [f"`{scheme}://`" for scheme in TRANSPORTS]
    lines = [["", *schemes], ["---", *(":-:" for _ in schemes)]]
    lines += [
        [meaning, *("yes" if getattr(one, name) else "no" for one in TRANSPORTS.values())]
        for name, meaning in ROWS.items()
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def test_the_table_is_made_from_the_capabilities() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"put this into docs/transports.md:\n\n{table()}"


def test_every_capability_has_a_row() -> None:
    told = {field for field in Capabilities.__struct_fields__ if field not in ("accepted", "settled")}
    assert told == set(ROWS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_says_what_accepted_and_settled_mean(scheme: str) -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert TRANSPORTS[scheme].accepted in page
    assert TRANSPORTS[scheme].settled in page


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_option_is_documented(scheme: str) -> None:
    options = importlib.import_module(f"echo_core.transports.{scheme}").OPTIONS
    documented = set(re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert options <= documented
