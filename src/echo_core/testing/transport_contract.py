"""What every transport promises, as plain functions: each raises `ContractBroken`, or returns.

The promises themselves stand in `echo_core.transports.base`. A transport's tests call every check in
`TRANSPORT_CHECKS` with a function that opens one: `await check(open_transport)`. Each opens its own,
so nothing is left over from one to the next.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Final, Protocol, TypeAlias

from echo_core.errors import EchoCoreError, TopicError, TransportClosed, TransportError
from echo_core.message import BaseMessage, Receipt
from echo_core.testing._checks import ContractBroken, require
from echo_core.transports.base import Delivery, Subscription, Transport

OpenTransport: TypeAlias = Callable[[], AbstractAsyncContextManager[Transport]]
"""Opens a fresh transport for a `with` block; a transport's class is one, if it needs no arguments."""

PATIENCE: Final = 10.0
"""Seconds in which a check must have ended; far more than a working transport needs."""
_PAUSE: Final = 0.02
"""Seconds in which a publisher that is not slowed would run far ahead."""


class TransportCheck(Protocol):
    """One promise, checked."""

    __name__: str

    def __call__(self, open_transport: OpenTransport, *, patience: float = PATIENCE) -> Awaitable[None]:
        """Return if the promise holds; raise `ContractBroken` if not, or after `patience` seconds."""


_checks: list[TransportCheck] = []


def _check(body: Callable[[OpenTransport], Awaitable[None]]) -> TransportCheck:
    """Put a deadline around a check, and file it: a transport that loses something answers never."""

    @functools.wraps(body)
    async def check(open_transport: OpenTransport, *, patience: float = PATIENCE) -> None:
        promise = (body.__doc__ or body.__name__).splitlines()[0]
        try:
            async with asyncio.timeout(patience):
                await body(open_transport)
        except TimeoutError as error:
            raise ContractBroken(f"nothing more came within {patience} s: {promise}") from error
        except EchoCoreError as error:
            raise ContractBroken(f"{type(error).__name__} was raised ({error}): {promise}") from error

    _checks.append(check)
    return check


def _message(data: Any = None) -> BaseMessage:
    return BaseMessage(source="contract", data=data)


async def _publish(transport: Transport, topic: str, *data: Any) -> None:
    for item in data:
        await transport.publish(topic, _message(item))


async def _take(subscription: Subscription, count: int) -> list[Delivery]:
    """Receive exactly `count` deliveries and settle none of them."""
    taken: list[Delivery] = []
    while len(taken) < count:
        taken.extend(await subscription.receive(count - len(taken)))
    return taken


def _data(deliveries: Sequence[Delivery]) -> list[Any]:
    return [delivery.message.data for delivery in deliveries]


async def _until_waiting(subscription: Subscription, count: int) -> None:
    """Return when `count` messages wait, and a publisher that is not slowed has had time for more."""
    while subscription.statistics().waiting < count:  # noqa: ASYNC110  (a transport has no such event)
        await asyncio.sleep(0.001)
    await asyncio.sleep(_PAUSE)


async def _settle(*deliveries: Delivery) -> None:
    for delivery in deliveries:
        await delivery.settle()


async def _check_pattern(
    open_transport: OpenTransport, pattern: str, topics: Sequence[tuple[str, bool]]
) -> None:
    """Publish to each topic; exactly those that are meant may come."""
    async with (
        open_transport() as transport,
        transport.subscribe("reader", [pattern, "contract.end"]) as reader,
    ):
        for topic, _ in topics:
            await _publish(transport, topic, topic)
        await _publish(transport, "contract.end", "contract.end")
        came: list[str] = []
        while "contract.end" not in came:
            for delivery in await reader.receive():
                came.append(delivery.topic)
                await delivery.settle()
    meant = [topic for topic, is_meant in topics if is_meant]
    require(came[:-1] == meant, f"the pattern {pattern!r} means {meant}, but {came[:-1]} came")


@_check
async def check_a_message_arrives_as_it_was_published(open_transport: OpenTransport) -> None:
    """Topic, id, time, data, lineage and trace: all arrive as they were published, on the first attempt."""
    data = {"text": "Grüße, 世界", "bytes": b"\x00\xff", "number": -0.5, "nested": [{"none": None}]}
    message = BaseMessage(
        source="contract",
        version="1.0",
        data=data,
        schema="contract/1",
        trace_context={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
        receipts=(Receipt(message_id="0190d3f0-0000-7000-8000-000000000000", source="first", hop=1),),
    )
    async with open_transport() as transport, transport.subscribe("reader", ["orders.new"]) as reader:
        await transport.publish("orders.new", message)
        (delivery,) = await _take(reader, 1)
        require(delivery.message == message, f"published {message!r}, but {delivery.message!r} arrived")
        require(delivery.topic == "orders.new", f"published to orders.new, but it came from {delivery.topic}")
        require(delivery.attempt == 1, f"the first delivery says attempt {delivery.attempt}")
        await delivery.settle()


@_check
async def check_a_star_is_exactly_one_word(open_transport: OpenTransport) -> None:
    """`*` stands for one word, at any place of the pattern."""
    await _check_pattern(
        open_transport,
        "orders.*.done",
        [
            ("orders.eu.done", True),
            ("orders.done", False),
            ("orders.eu.fr.done", False),
            ("orders.eu.new", False),
        ],
    )
    await _check_pattern(open_transport, "*.new", [("orders.new", True), ("new", False), ("a.b.new", False)])


@_check
async def check_a_hash_is_any_number_of_words(open_transport: OpenTransport) -> None:
    """`#` stands for no word, one, or many, at any place of the pattern."""
    await _check_pattern(
        open_transport,
        "orders.#",
        [("orders", True), ("orders.new", True), ("orders.eu.fr.new", True), ("order.new", False)],
    )
    await _check_pattern(open_transport, "#.done", [("done", True), ("a.b.done", True), ("a.done.b", False)])
    await _check_pattern(
        open_transport, "a.#.z", [("a.z", True), ("a.b.c.z", True), ("a.b", False), ("b.z", False)]
    )


@_check
async def check_a_message_that_two_patterns_mean_comes_once(open_transport: OpenTransport) -> None:
    """A subscription with overlapping patterns gets a message once."""
    async with open_transport() as transport, transport.subscribe("reader", ["a.#", "*.b", "#"]) as reader:
        await _publish(transport, "a.b", 1, 2)
        came = _data(await _take(reader, 2))
    require(came == [1, 2], f"published 1 and 2 once each, but {came} came")


@_check
async def check_messages_come_in_the_order_they_were_accepted(open_transport: OpenTransport) -> None:
    """One subscription gets its messages in order, whichever topics they were published to."""
    count = 200
    async with open_transport() as transport, transport.subscribe("reader", ["a.#"]) as reader:
        for number in range(count):
            await _publish(transport, f"a.{number % 3}", number)
        came = _data(await _take(reader, count))
    require(came == list(range(count)), f"the order was changed: {came}")


@_check
async def check_every_subscription_gets_its_own_delivery(open_transport: OpenTransport) -> None:
    """Settling a message in one subscription leaves it with the others."""
    async with (
        open_transport() as transport,
        transport.subscribe("first", ["orders.*"]) as first,
        transport.subscribe("second", ["#"]) as second,
    ):
        await _publish(transport, "orders.new", "data")
        await _settle(*await _take(first, 1))
        require(transport.unsettled() == 1, "settling in one subscription has settled in another")
        (other,) = await _take(second, 1)
        require(other.message.data == "data", "the second subscription got something else")
        await other.settle()


@_check
async def check_a_message_that_nobody_wants_is_accepted_and_gone(open_transport: OpenTransport) -> None:
    """Publishing to a topic without subscribers is no error, and leaves nothing to wait for."""
    async with open_transport() as transport, transport.subscribe("reader", ["wanted"]) as reader:
        await _publish(transport, "unwanted", 1)
        require(transport.unsettled() == 0, "a message without a subscriber counts as unsettled")
        await _publish(transport, "wanted", 2)
        came = _data(await _take(reader, 1))
    require(came == [2], f"{came} came to a subscriber of another topic")


@_check
async def check_a_waiting_receiver_is_woken(open_transport: OpenTransport) -> None:
    """`receive` that began before there was anything returns when something comes."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        waiting = asyncio.create_task(_take(reader, 1))
        await asyncio.sleep(0)
        await _publish(transport, "a", 1)
        came = _data(await waiting)
    require(came == [1], f"{came} came instead of [1]")


@_check
async def check_a_cancelled_receiver_loses_nothing(open_transport: OpenTransport) -> None:
    """Giving up on `receive` leaves the next message for the next `receive`, also if it has just come."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        for when in ("before", "after"):
            abandoned = asyncio.create_task(_take(reader, 1))
            await asyncio.sleep(0)
            if when == "after":
                await _publish(transport, "a", when)
            abandoned.cancel()
            await asyncio.wait([abandoned])
            if when == "before":
                await _publish(transport, "a", when)
            elif not abandoned.cancelled():
                return  # the receiver was quicker, and has the message
            came = _data(await _take(reader, 1))
            require(came == [when], f"{came} came instead of {[when]}")


@_check
async def check_receive_takes_at_most_its_limit_and_does_not_wait_for_more(
    open_transport: OpenTransport,
) -> None:
    """`receive(limit)` returns from one to `limit` deliveries as soon as there is one."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        await _publish(transport, "a", *range(5))
        came: list[Delivery] = []
        for limit in (2, 100):
            taken = await reader.receive(limit)
            require(1 <= len(taken) <= limit, f"receive({limit}) returned {len(taken)} deliveries")
            came.extend(taken)
        came.extend(await _take(reader, 5 - len(came)))
    require(_data(came) == list(range(5)), f"of 0 to 4, {_data(came)} came")


@_check
async def check_a_returned_delivery_comes_again(open_transport: OpenTransport) -> None:
    """A delivery handed back is delivered again, and the attempt is counted."""
    async with open_transport() as transport, transport.subscribe("reader", ["orders.#"]) as reader:
        await _publish(transport, "orders.new", "data")
        (first,) = await _take(reader, 1)
        await first.retry()
        (second,) = await _take(reader, 1)
        await second.retry()
        (third,) = await _take(reader, 1)
        require(third.message == first.message, f"{first.message!r} came again as {third.message!r}")
        require(third.topic == first.topic, f"it came again from {third.topic}, not {first.topic}")
        attempts = [first.attempt, second.attempt, third.attempt]
        require(attempts == [1, 2, 3], f"the attempts were counted as {attempts}")
        await third.settle()
        require(transport.unsettled() == 0, "something is left after the last attempt was settled")


@_check
async def check_what_is_handed_back_comes_before_what_follows(open_transport: OpenTransport) -> None:
    """Deliveries handed back, the newest first, come again in their order, before all that follows them."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        await _publish(transport, "a", *range(3))
        taken = await _take(reader, 3)
        await _publish(transport, "a", 3, 4)
        for delivery in reversed(taken[1:]):
            await delivery.retry()
        came = await _take(reader, 4)
        if transport.capabilities.ordered:
            require(_data(came) == [1, 2, 3, 4], f"of 0 to 4, with 1 and 2 handed back, {_data(came)} came")
        require(sorted(_data(came)) == [1, 2, 3, 4], f"{_data(came)} came, instead of 1 to 4")
        await _settle(taken[0], *came)


@_check
async def check_a_delayed_delivery_does_not_come_early(open_transport: OpenTransport) -> None:
    """`retry(delay)` comes again after the delay, and others are delivered meanwhile."""
    delay = 0.1
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        await _publish(transport, "a", "later")
        (first,) = await _take(reader, 1)
        returned = monotonic()
        await first.retry(delay)
        require(transport.unsettled() == 1, "a delivery that waits for its delay is not counted as unsettled")
        await _publish(transport, "a", "meanwhile")
        deliveries = await _take(reader, 2)
        waited = monotonic() - returned
        require(sorted(_data(deliveries)) == ["later", "meanwhile"], f"{_data(deliveries)} came")
        if transport.capabilities.delayed_retry:
            require(_data(deliveries) == ["meanwhile", "later"], "the delayed delivery held up the next one")
            # Event loops wake a little early: by up to the resolution of their clock.
            require(waited >= delay * 0.9, f"it came again after {waited:.3f} s, not {delay} s")
        await _settle(*deliveries)


@_check
async def check_a_delivery_ends_once(open_transport: OpenTransport) -> None:
    """Whatever ends a delivery first counts; ending it again changes nothing."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        await _publish(transport, "a", "settled", "returned", "untouched")
        settled, returned, untouched = await _take(reader, 3)
        await settled.settle()
        await settled.settle()
        await settled.retry()
        require(transport.unsettled() == 2, f"settled one of three, and {transport.unsettled()} are left")
        await returned.retry()
        await returned.retry()
        await returned.settle()
        require(transport.unsettled() == 2, f"returned one of two, and {transport.unsettled()} are left")
        (again,) = await _take(reader, 1)
        require(again.message.data == "returned", f"{again.message.data!r} came again")
        await _publish(transport, "a", "next")
        (following,) = await _take(reader, 1)
        require(following.message.data == "next", f"{following.message.data!r} came a second time")
        await _settle(untouched, again, following)


@_check
async def check_statistics_tell_waiting_from_unsettled(open_transport: OpenTransport) -> None:
    """A message waits until it is received, and is unsettled until it is settled."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        seen = []

        def look() -> None:
            statistics = reader.statistics()
            seen.append((statistics.waiting, statistics.unsettled))

        look()
        await _publish(transport, "a", 1, 2, 3)
        look()
        first, second = await _take(reader, 2)
        look()
        await first.settle()
        await second.retry()
        look()
        await _settle(*await _take(reader, 2))
        look()
    expected = [(0, 0), (3, 0), (1, 2), (2, 0), (0, 0)]
    require(seen == expected, f"(waiting, unsettled) was {seen}, not {expected}")


@_check
async def check_waiting_until_all_is_settled(open_transport: OpenTransport) -> None:
    """`unsettled` counts every delivery, and `wait_until_settled` returns when none is left, no sooner."""
    async with (
        open_transport() as transport,
        transport.subscribe("first", ["a"]) as first,
        transport.subscribe("second", ["#"]) as second,
    ):
        await transport.wait_until_settled()
        await _publish(transport, "a", 1)
        await _publish(transport, "b", 2)
        require(
            transport.unsettled() == 3, f"3 deliveries were accepted, {transport.unsettled()} are counted"
        )
        waiting = asyncio.create_task(transport.wait_until_settled())
        deliveries = [*await _take(first, 1), *await _take(second, 2)]
        for delivery in deliveries:
            await asyncio.sleep(0)
            require(not waiting.done(), f"it returned with {transport.unsettled()} unsettled")
            await delivery.settle()
        await waiting
        require(transport.unsettled() == 0, f"all are settled, but {transport.unsettled()} are counted")


@_check
async def check_a_closed_subscription_delivers_the_rest_and_takes_no_more(
    open_transport: OpenTransport,
) -> None:
    """After `close` what waits can still be received; then `TransportClosed` is raised."""
    async with open_transport() as transport, transport.subscribe("closed", ["a"]) as closed:
        await _publish(transport, "a", 1, 2)
        await closed.close()
        await closed.close()
        await _publish(transport, "a", 3)
        deliveries = await _take(closed, 2)
        require(_data(deliveries) == [1, 2], f"1 and 2 were waiting, {_data(deliveries)} came")
        await _settle(*deliveries)
        require(transport.unsettled() == 0, "a closed subscription has taken a message")
        try:
            extra = await closed.receive()
        except TransportClosed:
            return
        raise ContractBroken(f"{_data(extra)} came after the subscription was closed and empty")


@_check
async def check_closing_ends_a_waiting_receiver(open_transport: OpenTransport) -> None:
    """A receiver that waits when the subscription is closed is told so; iterating simply ends."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:

        async def read_all() -> int:
            return len([delivery async for delivery in reader])

        waiting = asyncio.create_task(read_all())
        await asyncio.sleep(0)
        await reader.close()
        require(await waiting == 0, "a delivery came out of an empty subscription")


@_check
async def check_malformed_topics_and_patterns_are_refused(open_transport: OpenTransport) -> None:
    """`TopicError` for a topic that is malformed, or has wildcards, and for a malformed pattern."""
    async with open_transport() as transport, transport.subscribe("reader", ["#"]) as reader:
        for topic in ("", "a..b", ".a", "a b", "a.*", "#", "a/b"):
            try:
                await _publish(transport, topic, topic)
            except TopicError:
                continue
            raise ContractBroken(f"a message was published to {topic!r}, which is no topic")
        for pattern in ("", "a..b", "a.b*", "a b"):
            try:
                transport.subscribe("other", [pattern])
            except TopicError:
                continue
            raise ContractBroken(f"{pattern!r} was subscribed to, and is no pattern")
        require(reader.statistics().waiting == 0, "a refused message was delivered all the same")


@_check
async def check_a_closed_transport_refuses(open_transport: OpenTransport) -> None:
    """After `close` nothing is published or received any more. Opening and closing may be repeated."""
    async with open_transport() as transport:
        reader = transport.subscribe("reader", ["a"])
        await transport.open()
        await transport.close()
        await transport.close()
        for what, attempt in (
            ("publish", lambda: _publish(transport, "a", 1)),
            ("receive", lambda: _take(reader, 1)),
        ):
            try:
                await attempt()
            except TransportClosed:
                continue
            raise ContractBroken(f"{what} worked on a closed transport")


@_check
async def check_a_full_queue_slows_the_publisher_and_loses_nothing(open_transport: OpenTransport) -> None:
    """While nobody receives, publishers stop near the limit; later everything comes, in order."""
    limit, count = 5, 100
    async with open_transport() as transport, transport.subscribe("slow", ["a"], queue_limit=limit) as slow:
        publishing = asyncio.create_task(_publish(transport, "a", *range(count)))
        await _until_waiting(slow, limit)
        waiting = slow.statistics().waiting
        if transport.capabilities.bounded_by_publisher:
            require(waiting <= 2 * limit, f"{waiting} messages wait in a queue whose limit is {limit}")
        came = []
        for _ in range(count):
            (delivery,) = await _take(slow, 1)
            came.append(delivery.message.data)
            await delivery.settle()
        await publishing
    require(came == list(range(count)), f"published 0 to {count - 1}, but {came} came")


@_check
async def check_a_publisher_waits_for_each_full_queue(open_transport: OpenTransport) -> None:
    """One full queue slows the publisher though another has room, and closing the full one lets it go on."""
    async with (
        open_transport() as transport,
        transport.subscribe("quick", ["#"]) as quick,
        transport.subscribe("full", ["a"], queue_limit=2) as full,
    ):
        if not transport.capabilities.bounded_by_publisher:
            return
        publishing = asyncio.create_task(_publish(transport, "a", *range(50)))
        await _until_waiting(full, 2)
        require(not publishing.done(), "the publisher ran past a full queue")
        await full.close()
        await publishing
        came = _data(await _take(quick, 50))
    require(came == list(range(50)), f"the queue with room got {came}")


@_check
async def check_a_source_is_told_to_wait_before_the_queue_is_full(open_transport: OpenTransport) -> None:
    """`congestion` slows the source whose messages fill a queue, and no other, until there is room again."""
    limit = 20
    async with open_transport() as transport, transport.subscribe("slow", ["a"], queue_limit=limit) as slow:
        require(transport.congestion("contract") is None, "a source was told to wait for an empty queue")
        if not transport.capabilities.slows_by_source:
            return
        published = 0
        while (room := transport.congestion("contract")) is None:
            require(published < limit - 1, f"with {published} messages waiting the source was told nothing")
            await _publish(transport, "a", published)
            published += 1
        require(transport.congestion("other") is None, "another source was told to wait")
        waiting = asyncio.ensure_future(room)
        await asyncio.sleep(0)
        require(not waiting.done(), "the source was told to wait, and let go on at once")
        await _settle(*await _take(slow, published))
        await waiting
        require(transport.congestion("contract") is None, "the queue is empty, and the source has to wait")


@_check
async def check_acceptance_is_reported(open_transport: OpenTransport) -> None:
    """`on_accept` hears of each accepted message once, and to how many subscriptions it went."""
    heard: list[tuple[str, int]] = []
    async with (
        open_transport() as transport,
        transport.subscribe("first", ["a"]) as first,
        transport.subscribe("second", ["#"]) as second,
    ):
        if not transport.capabilities.reports_acceptance:
            return
        transport.on_accept = lambda message, count: heard.append((message.data, count))
        for topic, data in (("a", "both"), ("b", "one")):
            await _publish(transport, topic, data)
            require(bool(heard) and heard[-1][0] == data, f"{data!r} was accepted, and reported too late")
        with contextlib.suppress(TopicError):
            await _publish(transport, "a.*", "refused")
        await _settle(*await _take(first, 1), *await _take(second, 2))
        await second.close()
        await _publish(transport, "b", "none")
    expected = [("both", 2), ("one", 1), ("none", 0)]
    require(heard == expected, f"what was accepted was reported as {heard}, not {expected}")


@_check
async def check_a_batch_is_accepted_whole_and_in_order(open_transport: OpenTransport) -> None:
    """`publish_batch` is `publish` of each: every subscription gets all, in order, whatever its limit."""
    count = 25
    came: dict[str, list[Any]] = {"narrow": [], "wide": []}

    async def read(subscription: Subscription) -> None:
        async for delivery in subscription:
            came[subscription.name].append(delivery.message.data)
            await delivery.settle()

    async with (
        open_transport() as transport,
        transport.subscribe("narrow", ["a.*"], queue_limit=3) as narrow,
        transport.subscribe("wide", ["#"]) as wide,
    ):
        readers = [asyncio.create_task(read(one)) for one in (narrow, wide)]
        await transport.publish_batch("a.b", [_message(number) for number in range(count)])
        await transport.publish_batch("a.b", [])
        await transport.wait_until_settled()
        for reader in readers:
            reader.cancel()
    for name, data in came.items():
        require(data == list(range(count)), f"of {count} messages in a batch, {data} came to {name!r}")


@_check
async def check_a_batch_of_deliveries_is_settled_as_each_would_be(open_transport: OpenTransport) -> None:
    """`settle_batch` is `settle` of each: those alone do not come again, and what has ended stays so."""
    async with open_transport() as transport, transport.subscribe("reader", ["a"]) as reader:
        await _publish(transport, "a", *range(5))
        taken = await _take(reader, 5)
        await taken[1].settle()
        await type(taken[0]).settle_batch(taken[:4])
        left = (reader.statistics().unsettled, transport.unsettled())
        require(left == (1, 1), f"settled four of five, and {left} are left")
        await taken[4].retry()
        (again,) = await _take(reader, 1)
        require(again.message.data == 4, f"{again.message.data} came again instead of 4")
        await again.settle()


@_check
async def check_what_is_redelivered_comes_to_the_subscription_that_is_meant(
    open_transport: OpenTransport,
) -> None:
    """`redeliver` gives a message to one subscription again, whatever its patterns; to all, if it must."""
    async with (
        open_transport() as transport,
        transport.subscribe("meant", ["a"]) as meant,
        transport.subscribe("other", ["a"]) as other,
    ):
        message = _message("again")
        await transport.redeliver("meant", "a", message)
        (delivery,) = await _take(meant, 1)
        require(delivery.message == message, f"{message!r} came again as {delivery.message!r}")
        await delivery.settle()
        if not transport.capabilities.redelivers_to_one:
            await _settle(*await _take(other, 1))
            return
        require(other.statistics().waiting == 0, "another subscription got it too")
        require(transport.unsettled() == 0, "it is settled, and still counted")
        try:
            await transport.redeliver("nobody", "a", message)
        except TransportError:
            return
        raise ContractBroken("it was redelivered to a subscription that is not there")


@_check
async def check_two_full_subscribers_that_feed_each_other_do_not_deadlock(
    open_transport: OpenTransport,
) -> None:
    """Two plugins with full queues that publish to each other go on, and every message is handled."""
    limit, children = 4, 3
    handled: list[str] = []

    async def work(own: str, other: str, transport: Transport, subscription: Subscription) -> None:
        """Handle messages as a plugin does: what it publishes names it as the source."""
        async for delivery in subscription:
            handled.append(own)
            if delivery.message.data == "parent":
                for _ in range(children):
                    child = delivery.message.derive("child", source=own)
                    await transport.publish(other, child)
            await delivery.settle()

    async with (
        open_transport() as transport,
        transport.subscribe("ping", ["ping"], queue_limit=limit) as ping,
        transport.subscribe("pong", ["pong"], queue_limit=limit) as pong,
    ):
        for topic in ("ping", "pong"):
            await _publish(transport, topic, *["parent"] * (limit - 1))
        workers = [
            asyncio.create_task(work("ping", "pong", transport, ping)),
            asyncio.create_task(work("pong", "ping", transport, pong)),
        ]
        try:
            await transport.wait_until_settled()
        finally:
            for worker in workers:
                worker.cancel()
    each = (limit - 1) * (1 + children)
    counts = {name: handled.count(name) for name in ("ping", "pong")}
    require(counts == {"ping": each, "pong": each}, f"of {each} messages for each, {counts} were handled")


TRANSPORT_CHECKS: Final[tuple[TransportCheck, ...]] = tuple(_checks)
