"""The transport contract over the transports that are here, and proof that each of its checks can fail."""

import asyncio
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from echo_core.errors import TopicError
from echo_core.message import BaseMessage, decode, encode
from echo_core.testing import ContractBroken, RecordingTransport, async_test, transport_contract
from echo_core.testing.transport_contract import TRANSPORT_CHECKS, TransportCheck
from echo_core.transports.base import Delivery, SubscriptionStatistics
from echo_core.transports.memory import MemoryDelivery, MemorySubscription, MemoryTransport
from echo_core.transports.pressure import Pressure
from echo_core.transports.urls import transport_for
from support.brokers import SCHEMES, Brokers, open_broker


class WireTransport(MemoryTransport):
    """Messages travel as bytes and take a turn of the loop, as between processes."""

    async def publish(self, topic: str, message: BaseMessage) -> None:
        raw = encode(message)
        await asyncio.sleep(0)
        await super().publish(topic, decode(raw))

    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        for message in messages:
            await self.publish(topic, message)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("transport", [MemoryTransport, RecordingTransport, WireTransport])
@async_test
async def test_a_transport_keeps_its_promises(
    transport: type[MemoryTransport], check: TransportCheck
) -> None:
    await check(transport)


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@async_test
async def test_a_store_on_disk_keeps_them_too(tmp_path: Path, check: TransportCheck) -> None:
    await check(lambda: transport_for("sqlite://messages.sqlite", tmp_path))


@pytest.mark.parametrize("check", TRANSPORT_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("scheme", SCHEMES)
@async_test
async def test_a_transport_over_a_broker_keeps_its_promises(
    scheme: str, check: TransportCheck, brokers: Brokers
) -> None:
    brokers.server(scheme)  # started before the check's patience begins
    # Kafka waits for more members before a group begins: 3 seconds each time, unless configured.
    await check(lambda: open_broker(brokers.url(scheme)), patience=30)


class Broken(MemoryTransport):
    """A `MemoryTransport` with one part exchanged for a broken one."""

    subscription: ClassVar[type[MemorySubscription]] = MemorySubscription

    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        made = super().subscribe(name, patterns, queue_limit=queue_limit)
        made.__class__ = self.subscription
        return made


def transport_with(broken: type[MemoryTransport | MemorySubscription]) -> type[MemoryTransport]:
    if issubclass(broken, MemoryTransport):
        return broken
    return type(broken.__name__, (Broken,), {"subscription": broken})


class LosesTheLineage(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, msgspec.structs.replace(message, receipts=()))


class ReadsAStarAsAHash(Broken):
    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        return super().subscribe(name, [pattern.replace("*", "#") for pattern in patterns])


class ReadsAHashAsAStar(Broken):
    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        return super().subscribe(name, [pattern.replace("#", "*") for pattern in patterns])


class DeliversOncePerPattern(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, message)
        for subscription in self._subscriptions:
            matching = [pattern for pattern in subscription.patterns if pattern.matches(topic)]
            for _ in matching[1:]:
                subscription.put_all([MemoryDelivery(subscription, topic, message, 1)])


class DeliversTheNewestFirst(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        return (await super().receive(limit))[::-1]


class SharesMessagesOut(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        subscriptions = self._routes.match(topic)
        if subscriptions:
            subscriptions[0].put_all([MemoryDelivery(subscriptions[0], topic, message, 1)])
            self._unsettled += 1


class EndsEverywhere(MemoryDelivery):
    def settle(self) -> Awaitable[None]:
        self._subscription._transport._unsettled = 1
        return super().settle()


class SettlesForEverybody(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        taken = await super().receive(limit)
        for delivery in taken:
            delivery.__class__ = EndsEverywhere
        return taken


class WaitsForUnwantedMessages(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, message)
        self._unsettled += not self._routes.match(topic)


class NeverWakesItsReceiver(MemorySubscription):
    def _wake_receivers(self) -> None:
        pass


class HandsTheNextMessageToACancelledReceiver(MemorySubscription):
    cancelled = False

    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        if self.cancelled:
            self._queue.popleft()
        try:
            return await super().receive(limit)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


class IgnoresTheLimit(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        return await super().receive(1_000)


class WaitsUntilTheLimitIsReached(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        taken = list(await super().receive(limit))
        while len(taken) < limit:
            taken.extend(await super().receive(limit))
        return taken


class NeverCountsAttempts(MemorySubscription):
    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        super()._returned(delivery, delay)
        self._queue[0].attempt = delivery.attempt


class DropsWhatIsReturned(MemorySubscription):
    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        self._settled()


class PutsWhatIsReturnedLast(MemorySubscription):
    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        super()._returned(delivery, delay)
        self._queue.rotate(-1)


class IgnoresTheDelay(MemorySubscription):
    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        super()._returned(delivery, delay / 100)


class HoldsEverythingUpForTheDelay(MemorySubscription):
    def _returned(self, delivery: MemoryDelivery, delay: float) -> None:
        super()._returned(delivery, 0)


class EndsAgainAndAgain(MemoryDelivery):
    async def settle(self) -> None:
        await super().settle()
        self._ended = False


class ForgetsWhatHasEnded(MemorySubscription):
    async def receive(self, limit: int = 1) -> Sequence[Delivery]:
        taken = await super().receive(limit)
        for delivery in taken:
            delivery.__class__ = EndsAgainAndAgain
        return taken


class CountsReceivedMessagesAsWaiting(MemorySubscription):
    def statistics(self) -> SubscriptionStatistics:
        honest = super().statistics()
        return SubscriptionStatistics(waiting=honest.waiting + honest.unsettled, unsettled=honest.unsettled)


class NeverWaitsUntilAllIsSettled(Broken):
    async def wait_until_settled(self) -> None:
        pass


class WaitsForEver(Broken):
    async def wait_until_settled(self) -> None:
        await asyncio.get_running_loop().create_future()


class DropsTheRestWhenClosed(MemorySubscription):
    async def close(self) -> None:
        await super().close()
        self._queue.clear()


class GoesOnCollectingWhenClosed(Broken):
    def _forget(self, subscription: MemorySubscription) -> None:
        pass


class LetsItsReceiverSleepWhenClosed(MemorySubscription):
    async def close(self) -> None:
        self._receivers = []
        await super().close()


class PublishesToAnything(Broken):
    def _find_subscribers(self, topic: str) -> tuple[MemorySubscription, ...]:
        try:
            return super()._find_subscribers(topic)
        except TopicError:
            return ()


class SubscribesToAnything(Broken):
    def subscribe(
        self, name: str, patterns: Sequence[str], *, queue_limit: int = 1_000
    ) -> MemorySubscription:
        try:
            return super().subscribe(name, patterns)
        except TopicError:
            return super().subscribe(name, ["#"])


class PublishesWhenClosed(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        self._open = True
        await super().publish(topic, message)


class LeavesSubscriptionsOpen(Broken):
    async def close(self) -> None:
        self._open = False


class NeverSlowsAnyone(MemorySubscription):
    is_full = False
    is_overfull = False


class ShedsWhenFull(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        if not any(subscription.is_full for subscription in self._routes.match(topic)):
            await super().publish(topic, message)

    async def _slow_down(self, publisher: str, subscriptions: Sequence[MemorySubscription]) -> None:
        pass


class WaitsForTheFirstOnly(MemorySubscription):
    @property
    def is_full(self) -> bool:
        return self.name == "quick" and super().is_full

    @property
    def is_overfull(self) -> bool:
        return self.name == "quick" and super().is_overfull


class RedeliversToEverybody(Broken):
    async def redeliver(self, subscriber: str, topic: str, message: BaseMessage) -> None:
        await self.publish(topic, message)


class Blind(Pressure):
    def would_deadlock(self, waiter: str, publisher: str) -> bool:
        return False


class NeverSeesACycle(Broken):
    def __init__(self) -> None:
        super().__init__(Blind())


class TellsNoSource(Broken):
    def congestion(self, source: str) -> None:
        return None


class TellsEverySource(Broken):
    def congestion(self, source: str) -> Awaitable[None] | None:
        return super().congestion("contract")


class TellsSourcesForEver(MemorySubscription):
    def _let_sources_go_on(self) -> None:
        pass


class ReportsTwice(Broken):
    async def publish(self, topic: str, message: BaseMessage) -> None:
        await super().publish(topic, message)
        if self.on_accept is not None:
            self.on_accept(message, 1)


class LosesTheEndOfABatch(Broken):
    async def publish_batch(self, topic: str, messages: Sequence[BaseMessage]) -> None:
        await super().publish_batch(topic, messages[:20])


class SettlesABatchTwice(MemorySubscription):
    def _settled(self, count: int = 1) -> None:
        super()._settled(count + 1 if count > 1 else 1)


HANGS = "nothing more came within"

# (the check's name after "check_", a transport that breaks its promise, what the check must say)
BREACHES: list[tuple[str, type[MemoryTransport | MemorySubscription], str]] = [
    ("a_batch_is_accepted_whole_and_in_order", LosesTheEndOfABatch, "of 25 messages in a batch"),
    ("a_batch_of_deliveries_is_settled_as_each_would_be", SettlesABatchTwice, "settled four of five"),
    ("a_message_arrives_as_it_was_published", LosesTheLineage, r"receipts=\(\).* arrived"),
    ("a_star_is_exactly_one_word", ReadsAStarAsAHash, "orders.done"),
    ("a_hash_is_any_number_of_words", ReadsAHashAsAStar, "the pattern 'orders.#' means"),
    ("a_message_that_two_patterns_mean_comes_once", DeliversOncePerPattern, r"\[1, 1\] came"),
    ("messages_come_in_the_order_they_were_accepted", DeliversTheNewestFirst, "the order was changed"),
    ("every_subscription_gets_its_own_delivery", SettlesForEverybody, "has settled in another"),
    ("every_subscription_gets_its_own_delivery", SharesMessagesOut, "has settled in another"),
    ("a_message_that_nobody_wants_is_accepted_and_gone", WaitsForUnwantedMessages, "counts as unsettled"),
    ("a_waiting_receiver_is_woken", NeverWakesItsReceiver, HANGS),
    ("a_cancelled_receiver_loses_nothing", HandsTheNextMessageToACancelledReceiver, HANGS),
    (
        "receive_takes_at_most_its_limit_and_does_not_wait_for_more",
        IgnoresTheLimit,
        r"receive\(2\) returned 5 deliveries",
    ),
    ("receive_takes_at_most_its_limit_and_does_not_wait_for_more", WaitsUntilTheLimitIsReached, HANGS),
    ("a_returned_delivery_comes_again", NeverCountsAttempts, r"counted as \[1, 1, 1\]"),
    ("a_returned_delivery_comes_again", DropsWhatIsReturned, HANGS),
    (
        "what_is_handed_back_comes_before_what_follows",
        PutsWhatIsReturnedLast,
        "with 1 and 2 handed back",
    ),
    ("a_delayed_delivery_does_not_come_early", IgnoresTheDelay, "it came again after"),
    ("a_delayed_delivery_does_not_come_early", HoldsEverythingUpForTheDelay, "held up the next one"),
    ("a_delivery_ends_once", ForgetsWhatHasEnded, "settled one of three, and 1 are left"),
    ("statistics_tell_waiting_from_unsettled", CountsReceivedMessagesAsWaiting, r"\(3, 2\)"),
    ("waiting_until_all_is_settled", NeverWaitsUntilAllIsSettled, "it returned with 3 unsettled"),
    ("waiting_until_all_is_settled", WaitsForEver, HANGS),
    ("a_closed_subscription_delivers_the_rest_and_takes_no_more", DropsTheRestWhenClosed, "TransportClosed"),
    (
        "a_closed_subscription_delivers_the_rest_and_takes_no_more",
        GoesOnCollectingWhenClosed,
        "has taken a message",
    ),
    ("closing_ends_a_waiting_receiver", LetsItsReceiverSleepWhenClosed, HANGS),
    ("malformed_topics_and_patterns_are_refused", PublishesToAnything, "'', which is no topic"),
    ("malformed_topics_and_patterns_are_refused", SubscribesToAnything, "'' was subscribed to"),
    ("a_closed_transport_refuses", PublishesWhenClosed, "publish worked on a closed transport"),
    ("a_closed_transport_refuses", LeavesSubscriptionsOpen, HANGS),
    ("a_full_queue_slows_the_publisher_and_loses_nothing", NeverSlowsAnyone, "limit is 5"),
    ("a_full_queue_slows_the_publisher_and_loses_nothing", ShedsWhenFull, HANGS),
    ("a_publisher_waits_for_each_full_queue", WaitsForTheFirstOnly, "ran past a full queue"),
    ("a_source_is_told_to_wait_before_the_queue_is_full", TellsNoSource, "was told nothing"),
    ("a_source_is_told_to_wait_before_the_queue_is_full", TellsEverySource, "another source was told"),
    ("a_source_is_told_to_wait_before_the_queue_is_full", TellsSourcesForEver, HANGS),
    ("acceptance_is_reported", ReportsTwice, "was reported as"),
    (
        "what_is_redelivered_comes_to_the_subscription_that_is_meant",
        RedeliversToEverybody,
        "another subscription got it too",
    ),
    ("two_full_subscribers_that_feed_each_other_do_not_deadlock", NeverSeesACycle, HANGS),
]


@pytest.mark.parametrize(
    ("name", "broken", "complaint"), BREACHES, ids=[broken.__name__ for _, broken, _ in BREACHES]
)
@async_test
async def test_a_broken_promise_is_seen(
    name: str, broken: type[MemoryTransport | MemorySubscription], complaint: str
) -> None:
    check: TransportCheck = getattr(transport_contract, f"check_{name}")
    with pytest.raises(ContractBroken, match=complaint):
        await check(transport_with(broken), patience=0.1 if complaint is HANGS else 10)


def test_every_check_is_proven_to_fail() -> None:
    assert {f"check_{name}" for name, _, _ in BREACHES} == {check.__name__ for check in TRANSPORT_CHECKS}
