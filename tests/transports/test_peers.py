"""What hosts know of each other's subscriptions."""

import asyncio

import pytest

from echo_core.message import BaseMessage, encode
from echo_core.testing import async_test
from echo_core.transports.broker import peers as peers_module
from echo_core.transports.broker.peers import PATIENCE, Peers, document_of
from transports.test_broker_publishing import scripted


def test_it_knows_what_others_want_of_a_queue() -> None:
    peers = Peers()
    assert peers.hear("old", document_of({"worker": ["both", "old.*"], "other": ["#"]}))
    assert peers.hear("new", document_of({"worker": ["both", "new.#"]}))
    assert peers.share("worker")
    assert peers.want("worker", "old.a")
    assert peers.decline("worker", "old.a")
    assert not peers.decline("worker", "both")
    assert not peers.want("worker", "else")
    assert peers.patterns("worker") == ["both", "old.*", "new.#"]
    assert not peers.share("nobody")
    assert not peers.decline("nobody", "a")


def test_it_knows_the_queues_that_others_take_from(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(peers_module, "monotonic", lambda: now)
    peers = Peers()
    peers.hear("old", document_of({"worker": ["a"]}, asked=1))
    now += 30
    peers.hear("new", document_of({"worker": ["b"], "other": ["#"]}))
    assert peers.queues() == {"worker": ["a", "b"], "other": ["#"]}
    now += 31
    assert peers.queues() == {"worker": ["b"], "other": ["#"]}
    peers.hear("new", document_of({}))
    assert peers.queues() == {}


def test_one_that_says_good_bye_wants_nothing_any_more() -> None:
    peers = Peers()
    peers.hear("old", document_of({"worker": ["a"]}))
    assert not peers.hear("old", document_of({}))
    assert not peers.share("worker")


def test_one_that_falls_silent_is_believed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(peers_module, "monotonic", lambda: now)
    peers = Peers()
    peers.hear("old", document_of({"worker": ["a"]}))
    now += 59
    assert peers.want("worker", "a")
    now += 2
    assert not peers.want("worker", "a")


def test_one_that_asks_or_wants_something_else_is_to_be_answered() -> None:
    peers = Peers()
    assert peers.hear("other", document_of({"worker": ["a"]}))
    assert not peers.hear("other", document_of({"worker": ["a"]}))
    assert peers.hear("other", document_of({"worker": ["a"]}, asked=1))
    assert peers.hear("other", document_of({"worker": ["a"], "more": ["a"]}, asked=1))


def test_what_was_said_before_one_asked_may_come_from_one_that_is_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers_module, "monotonic", lambda: 100.0)
    peers = Peers()
    peers.hear("dead", document_of({"worker": ["a"]}), ago=2.0)
    assert peers.share("worker")  # it may come back, and want what it wanted
    assert not peers.share("worker", since=99.0)
    peers.hear("alive", document_of({"worker": ["a"]}), ago=0.5)
    assert peers.share("worker", since=99.0)


@pytest.mark.parametrize("said", [b"", b"nonsense", b'{"worker": ["a..b"]}', b'["a"]'])
def test_what_is_no_document_is_passed_over(said: bytes) -> None:
    peers = Peers()
    assert not peers.hear("somebody", said)
    assert not peers.share("worker")


def look(peers: Peers, times: int) -> None:
    for _ in range(times):
        peers.look()


def test_a_topic_is_surplus_when_whoever_may_want_it_has_had_the_time_to_say_so() -> None:
    peers = Peers()
    assert not peers.is_surplus("worker", "a")
    look(peers, PATIENCE - 1)
    assert not peers.is_surplus("worker", "a")
    look(peers, 1)
    assert peers.is_surplus("worker", "a")
    assert not peers.is_surplus("worker", "else")
    assert not peers.is_surplus("other", "a")
    peers.hear("late", document_of({"worker": ["a"]}))
    assert not peers.is_surplus("worker", "a")


def test_a_topic_that_comes_again_after_a_while_may_be_wanted_by_somebody_new() -> None:
    peers = Peers()
    peers.is_surplus("worker", "a")
    look(peers, PATIENCE)
    assert peers.is_surplus("worker", "a")
    look(peers, PATIENCE + 1)
    assert not peers.is_surplus("worker", "a")


def test_what_is_said_while_there_is_no_connection_is_not_heard() -> None:
    peers = Peers()
    peers.is_surplus("worker", "a")
    look(peers, PATIENCE)
    peers.none_heard()
    assert not peers.is_surplus("worker", "a")


def test_however_many_topics_nobody_wants_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "_TOPICS", 10)
    peers, left = Peers(), {f"topic.{number}" for number in range(100)}
    for _ in range(60 * PATIENCE):
        left = {topic for topic in sorted(left) if not peers.is_surplus("worker", topic)}
        assert len(peers._unwanted) <= 10
        peers.look()
    look(peers, 2 * PATIENCE)
    assert not left
    assert not peers._unwanted


@async_test
async def test_what_nobody_seems_to_want_is_handed_on_until_it_is_surplus() -> None:
    async with scripted() as transport:
        subscription = transport.subscribe("worker", ["a"])
        payload = encode(BaseMessage(source="source"))
        assert subscription.arrived(1, "b", payload, 1, "handle", 0) is None
        look(transport.peers, PATIENCE - 1)
        assert subscription.arrived(1, "b", payload, 2, "handle", 0) is None
        look(transport.peers, 1)
        surplus = subscription.arrived(1, "b", payload, 3, "handle", 0)
        assert surplus is not None
        assert surplus.topic == "b"
        await transport.lose_connection()
        assert subscription.arrived(2, "b", payload, 1, "handle", 0) is None
        for _ in range(5):
            await asyncio.sleep(0)
        assert [key for key, _ in transport.handed_back] == [1, 1, 2]
        delays = {delay for _, delay in transport.handed_back}
        assert len(delays) == 3  # a broker that offers in turn would come to the same host again and again
