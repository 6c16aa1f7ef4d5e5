"""Every sentence that says what accepted and settled mean has tests that hold it: these."""

import re
from pathlib import Path
from typing import Final

import pytest

from docs.test_transports import TRANSPORTS

TESTS: Final = Path(__file__).parents[1]
_BROKER_ACCEPTED: Final = (
    "transports/test_brokers.py::test_a_source_waits_until_its_message_is_accepted",
    "transports/test_brokers.py::test_messages_wait_at_the_broker_while_nobody_is_there",
    "faults/test_brokers.py::test_a_server_that_is_killed_and_started_again_loses_nothing",
)
_BROKER_SETTLED: Final = (
    "transports/test_brokers.py::test_deliveries_settle_after_a_new_connection_and_do_not_come_again",
    "transports/test_brokers.py::test_nothing_is_settled_before_what_was_made_from_it_is_accepted",
)
HELD_BY: Final[dict[str, tuple[str, ...]]] = {
    "memory accepted": ("contract/test_transport_contract.py::test_a_transport_keeps_its_promises",),
    "memory settled": ("contract/test_transport_contract.py::test_a_transport_keeps_its_promises",),
    "sqlite accepted": (
        "faults/test_disk.py::test_whenever_everything_stops_what_was_accepted_is_there",
        "faults/test_kills.py::test_a_host_that_is_killed_again_and_again_loses_nothing",
        "transports/test_sqlite.py::test_messages_wait_for_a_subscription_that_nobody_listens_to",
        "transports/test_sqlite.py::test_a_handler_does_not_wait_for_the_disk_and_nothing_it_made_is_lost",
        "transports/test_sqlite.py::"
        "test_what_a_handler_made_is_kept_while_the_disk_refuses_and_its_message_is_not_settled",
    ),
    "sqlite settled": (
        "contract/test_transport_contract.py::test_a_store_on_disk_keeps_them_too",
        "transports/test_sqlite.py::test_a_host_whose_lease_was_taken_goes_on_as_a_new_one",
        "faults/test_kills.py::test_a_kill_before_any_statement_leaves_a_store_with_all_that_was_accepted",
    ),
    **{
        f"{scheme} {what}": tests
        for scheme in ("nats", "redis", "amqp", "kafka")
        for what, tests in (("accepted", _BROKER_ACCEPTED), ("settled", _BROKER_SETTLED))
    },
}


def test_each_sentence_of_each_transport_is_held() -> None:
    said = {
        f"{scheme} {what}"
        for scheme, capabilities in TRANSPORTS.items()
        for what in ("accepted", "settled")
        if getattr(capabilities, what)
    }
    assert said == set(HELD_BY)


@pytest.mark.parametrize("test", sorted({test for tests in HELD_BY.values() for test in tests}))
def test_the_test_is_there(test: str) -> None:
    file, name = test.split("::")
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE)
