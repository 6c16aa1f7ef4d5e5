"""What hosts know of each other's subscriptions."""

import pytest

from echo_core.transports.broker import peers as peers_module
from echo_core.transports.broker.peers import Peers, document_of


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
