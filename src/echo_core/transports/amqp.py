"""RabbitMQ: `amqp://` and `amqp+tls://`, with aiormq, which is under aio-pika (the extra `echo-core[amqp]`).

A durable topic exchange takes all publications, their topic as routing key, and every subscription name has
a durable queue that is bound to it with the subscription's patterns. Hosts that share a name consume from the
same queue.

Options: `prefix` (begins every name; default echo), `create=no` (refuse when exchange or queue is missing,
rather than make them), `lease` (seconds after which a silent host is given up; default 8: the connection's
heartbeat is half of it), `queue_type` (quorum or classic, of queues that are made; default quorum),
`largest` (bytes of a message; the server's max_message_size, 16 MiB unless configured). The path is the
virtual host.

AMQP 0-9-1, and RabbitMQ's publisher confirms, consumer cancellation and quorum queues.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from time import monotonic
from typing import Any, ClassVar, Final

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic
from yarl import URL

from echo_core.errors import TransportError
from echo_core.topics import TopicSet
from echo_core.transports.base import Capabilities
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import Publication
from echo_core.transports.broker.recovery import end_task, plain
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from echo_core.transports.broker.transport import OPTIONS as COMMON_OPTIONS
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.endpoint import Endpoint, parse_endpoint
from echo_core.transports.tags import Tags

PORT: Final = 5672
TLS_PORT: Final = 5671
OPTIONS: Final = COMMON_OPTIONS | {"queue_type", "largest"}
_LARGEST: Final = 16 * 2**20
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_NEVER: Final = 1_000_000
"""Redeliveries after which RabbitMQ would drop a message; 4.0 does so after 20 unless told otherwise."""
_PERSISTENT: Final = 2
_CONSUMER: Final = "echo"
"""The tag of a channel's only consumer: known before RabbitMQ answers, so that it can be cancelled then."""
_LOCKED_S: Final = 0.2
"""Between two looks whether a connection that was lost has ended."""
_MOST_ANNOUNCED: Final = 1_000
_CLIENT_ERRORS: Final = (AMQPError, RuntimeError)
"""RuntimeError is what aiormq raises for channels of a connection that has ended."""
_UNREACHABLE: Final = (*_CLIENT_ERRORS, OSError, TimeoutError)

logger = logging.getLogger(__name__)
# It reports as errors what is told and mended here.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class AmqpSubscription(BrokerSubscription):
    """A queue, and the channel that it is consumed on."""

    channel: Any = None
    tags: Tags
    """Of the channel."""
    telling: asyncio.Task[None] | None = None
    """Tells RabbitMQ what was settled in one turn of the event loop."""

    @property
    def queue(self) -> str:
        """Its name at the broker."""
        return f"{self._transport.prefix}.{self.name}"


class AmqpTransport(BrokerTransport):
    """Messages in queues of RabbitMQ."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        presence=True,
        accepted="RabbitMQ has confirmed it: it is in every queue that wants it, on most of their replicas.",
        settled="RabbitMQ is being told. If it never hears, the host knows when the message comes again.",
    )
    broker = "RabbitMQ"
    client_errors = _CLIENT_ERRORS
    subscription_type = AmqpSubscription
    resend_s = float("inf")  # a confirm comes, however late, or the connection ends

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._exchange = self.prefix
        self._queue_type = endpoint.chosen("queue_type", "quorum", "quorum", "classic")
        self.payload_limit = endpoint.number("largest", _LARGEST, int, least=1_024)
        self._us = secrets.token_hex(6)
        self._connection: Any = None
        self._publisher: Any = None
        self._succession: asyncio.Task[None] | None = None
        """Ends when RabbitMQ has nothing more on a connection of ours that was lost."""
        self._hosts: Any = None
        """The channel on which hosts hear of each other; None where the server does not let us."""
        self._publishing: set[asyncio.Task[None]] = set()
        self._delayed: dict[BrokerDelivery, asyncio.TimerHandle] = {}
        self._others: dict[str, list[str]] = {}
        self._others_want = TopicSet(())
        """What the queues of other hosts collect."""

    # -- connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Connect to the first server that answers, and see to the exchange."""
        await self._close_connection()
        await end_task(self._succession)
        trouble: BaseException = OSError("no server is named")
        for host, port in self.endpoint.hosts:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    self._connection = await aiormq.connect(self._url(host, port), context=self.endpoint.tls)
            except _UNREACHABLE as error:
                trouble = error
                continue
            break
        else:
            raise trouble
        connection = self._connection
        # Nobody waits in between: who finds the connection finds the succession too, and waits for it.
        self._succession = asyncio.create_task(self._succeed(connection), name="amqp succession")
        connection.closing.add_done_callback(lambda closing: self._connection_ended(connection, closing))
        await self._ensure_exchange()
        self._hosts = await self._meet()
        self._publisher = await self._connection.channel(publisher_confirms=True)
        publisher = self._publisher
        publisher.closing.add_done_callback(lambda closing: self._publisher_ended(publisher, closing))

    def _advice(self, error: Exception) -> str:
        is_refused = isinstance(error, AuthenticationError | ProbableAuthenticationError)
        return "mend user and password" if is_refused else super()._advice(error)

    def _url(self, host: str, port: int) -> URL:
        endpoint = self.endpoint
        return URL.build(
            scheme="amqps" if endpoint.tls else "amqp",
            user=endpoint.user or "guest",
            password=endpoint.password.reveal() or "guest",
            host=host,
            port=port,
            path="/" + (endpoint.path.replace("/", "%2F") if endpoint.path else ""),
            query={"heartbeat": str(max(1, int(self.lease_s / 2))), "name": "echo-core"},
        )

    def _connection_ended(self, connection: Any, closing: "asyncio.Future[Any]") -> None:
        if connection is self._connection:
            self._cut_off(_reason(closing))

    def _publisher_ended(self, channel: Any, closing: "asyncio.Future[Any]") -> None:
        """The server ends a channel where it does not like what was asked; all begins anew then."""
        if channel is self._publisher:
            self._cut_off(_reason(closing))

    async def _close_connection(self) -> None:
        connection, self._connection, self._publisher = self._connection, None, None
        await asyncio.gather(*(end_task(task) for task in list(self._publishing)))
        if connection is not None:
            with contextlib.suppress(*_UNREACHABLE):
                async with asyncio.timeout(1):
                    await connection.close(_given_up())

    async def _disconnect(self) -> None:
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                for subscription in self._ever:
                    assert isinstance(subscription, AmqpSubscription)
                    if subscription.telling is not None:
                        await subscription.telling
        await end_task(self._succession)
        await self._close_connection()

    async def _succeed(self, connection: Any) -> None:
        """Return when RabbitMQ has seen the end of the connection before, and put back what was on its way.

        A queue that is exclusive goes with the connection that made it; until then nobody else can make it.
        """
        until = monotonic() + 2 * self.lease_s
        with contextlib.suppress(*_UNREACHABLE):  # then there will be another connection
            await self._get_our_name(connection, until)

    async def _get_our_name(self, connection: Any, until: float) -> None:
        while monotonic() < until:
            channel = await connection.channel(publisher_confirms=False)
            try:
                await channel.queue_declare(
                    f"{self._exchange}.host.{self._us}", exclusive=True, timeout=_ANSWER_S
                )
            except ChannelLockedResource:
                self._troubles.begin("the lost connection", "RabbitMQ has not given it up")
                await asyncio.sleep(_LOCKED_S)
                continue
            except AMQPError:
                pass  # we may not make queues; then what was on its way may come late
            finally:
                await self._close_channel(channel)
            break
        if "the lost connection" in self._troubles:
            await asyncio.sleep(_LOCKED_S)  # its channels end with it, but a moment later
            self._troubles.end("the lost connection")

    async def _ensure_exchange(self) -> None:
        channel = await self._connection.channel(publisher_confirms=False)
        try:
            await channel.exchange_declare(
                self._exchange,
                exchange_type="topic",
                durable=True,
                passive=not self.may_create,
                timeout=_ANSWER_S,
            )
        except ChannelNotFoundEntity:
            raise self._missing(f"the exchange {self._exchange}") from None
        finally:
            await self._close_channel(channel)

    async def _meet(self) -> Any:
        """Hear the other hosts, over an exchange that is there as long as one of them is."""
        channel = await self._connection.channel(publisher_confirms=False)
        exchange = f"{self._exchange}.hosts"
        try:
            await channel.exchange_declare(
                exchange, exchange_type="fanout", auto_delete=True, timeout=_ANSWER_S
            )
            queue = await channel.queue_declare(
                exclusive=True, arguments={"x-max-length": _MOST_ANNOUNCED}, timeout=_ANSWER_S
            )
            await channel.queue_bind(queue.queue, exchange, timeout=_ANSWER_S)
            await channel.basic_consume(queue.queue, self._on_announcement, no_ack=True, timeout=_ANSWER_S)
        except AMQPError as error:
            logger.warning("this host hears of no other: %s", plain(error))
            await self._close_channel(channel)
            return None
        return channel

    async def _on_announcement(self, message: DeliveredMessage) -> None:
        self._heard_of(message.body)

    async def announce(self, host: str, document: bytes) -> None:
        if self._hosts is not None and self.is_connected:
            with contextlib.suppress(*_UNREACHABLE):
                async with asyncio.timeout(_ANSWER_S):
                    await self._hosts.basic_publish(
                        b"%b\n%b" % (host.encode(), document), exchange=f"{self._exchange}.hosts"
                    )

    @staticmethod
    async def _close_channel(channel: Any) -> None:
        with contextlib.suppress(*_UNREACHABLE):
            async with asyncio.timeout(1):
                if not channel.is_closed:
                    await channel.close(_given_up())

    # -- subscriptions --------------------------------------------------------------------------------

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, AmqpSubscription)
        connection, succession = self._connection, self._succession
        if connection is None or succession is None:
            raise ConnectionError("there is no connection")
        await asyncio.wait([succession])
        try:
            await self._ensure_queue(connection, subscription)
            await self._consume(connection, subscription)
        except TimeoutError:
            why = f"RabbitMQ does not answer for {subscription.queue}; has it a leader? See its log"
            raise ConnectionError(why) from None
        except (ConnectionError, RuntimeError) as error:
            raise ConnectionError(plain(error)) from None
        except ChannelNotFoundEntity:
            raise self._missing(f"the queue {subscription.queue}") from None
        except AMQPError as error:
            raise TransportError(
                f"RabbitMQ refuses the queue {subscription.queue}",
                where=self.endpoint.public,
                why=plain(error),
                fix="delete it, or choose another prefix or queue_type",
            ) from None

    async def _resume(self, subscription: BrokerSubscription) -> None:
        await self._establish(subscription)

    async def _ensure_queue(self, connection: Any, subscription: AmqpSubscription) -> None:
        channel = await connection.channel(publisher_confirms=False)
        arguments: dict[str, Any] = {"x-queue-type": self._queue_type}
        if self._queue_type == "quorum":
            arguments["x-delivery-limit"] = _NEVER
        try:
            made = await channel.queue_declare(
                subscription.queue,
                durable=True,
                passive=not self.may_create,
                arguments=arguments if self.may_create else None,
                timeout=_ANSWER_S,
            )
            if self.may_create:
                # A server that is busy says of both that there are none (`rabbit_quorum_queue:stat/1`): then
                # others hear of us when they have been given, and have handed on, what is for us.
                if (made.consumer_count or made.message_count) and not subscription.is_ready:
                    await self._agree_with_peers(subscription)
                for pattern in subscription.patterns:
                    await channel.queue_bind(
                        subscription.queue, self._exchange, routing_key=pattern.text, timeout=_ANSWER_S
                    )
        finally:
            await self._close_channel(channel)

    async def _consume(self, connection: Any, subscription: AmqpSubscription) -> None:
        old, subscription.channel = subscription.channel, None
        if old is not None:
            await self._close_channel(old)
        channel = await connection.channel(publisher_confirms=False)
        channel.on_consumer_cancel_callbacks.add(lambda frame: self._cancelled(subscription, channel))
        await channel.basic_qos(prefetch_count=2 * subscription.prefetch, timeout=_ANSWER_S)
        channel.closing.add_done_callback(
            lambda closing: self._consumer_ended(subscription, connection, channel, closing)
        )
        subscription.channel, subscription.tags = channel, Tags()
        subscription.asked = subscription.prefetch
        await channel.basic_consume(
            subscription.queue,
            lambda message: self._arrived(subscription, channel, message),
            consumer_tag=_CONSUMER,
            timeout=_ANSWER_S,
        )

    def _cancelled(self, subscription: AmqpSubscription, channel: Any) -> None:
        if channel is subscription.channel:
            self._lost(subscription, "the queue was deleted")

    def _consumer_ended(
        self, subscription: AmqpSubscription, connection: Any, channel: Any, closing: "asyncio.Future[Any]"
    ) -> None:
        is_ours = channel is subscription.channel and connection is self._connection
        if is_ours and not subscription._is_closing:
            self._cut_off(_reason(closing))

    async def _arrived(self, subscription: AmqpSubscription, channel: Any, message: DeliveredMessage) -> None:
        delivery, properties = message.delivery, message.header.properties
        assert isinstance(delivery, Basic.Deliver)
        assert delivery.delivery_tag is not None
        if channel is not subscription.channel:
            return  # it comes again on the new one
        subscription.tags.came(delivery.delivery_tag)
        counted = (properties.headers or {}).get("x-delivery-count")
        attempt = 1 + (int(counted) if isinstance(counted, int) else bool(delivery.redelivered))
        handle = (channel, delivery.delivery_tag)
        key = properties.message_id or handle
        held = subscription._held.get(key)
        if held is not None and held.handle[0] is channel:
            # Published twice, around the loss of a connection. The first copy is enough.
            self._tell_soon(subscription, channel, delivery.delivery_tag)
            return
        surplus = subscription.arrived(
            key,
            delivery.routing_key or "",
            message.body,
            attempt,
            handle,
            max(0, subscription._behind - 1),
        )
        if surplus is not None:
            await self._acknowledge(surplus)

    async def _stop(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, AmqpSubscription)
        if subscription.channel is not None and self.is_connected:
            with contextlib.suppress(*_UNREACHABLE):
                async with asyncio.timeout(1):
                    await subscription.channel.basic_cancel(_CONSUMER)
                    await asyncio.sleep(0)  # the client hands on in tasks what came before the answer

    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        """RabbitMQ sends by itself, up to the prefetch of the channel."""

    # -- messages -------------------------------------------------------------------------------------

    async def _send(self, publication: Publication) -> None:
        task = asyncio.create_task(self._publish(self._publisher, publication))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, channel: Any, publication: Publication) -> None:
        """Wait for the confirm; the client has no other way to tell it."""
        try:
            await channel.basic_publish(
                publication.payload,
                exchange=self._exchange,
                routing_key=publication.topic,
                properties=Basic.Properties(
                    delivery_mode=_PERSISTENT, message_id=f"{self._us}-{publication.number}"
                ),
                # What no queue wants is accepted, and gone; but one wants this, if it is still there.
                mandatory=bool(publication.subscriptions) or publication.topic in self._others_want,
                wait=False,
            )
        except PublishError:
            self._refused(publication.number, "no queue takes it")
            for subscription in publication.subscriptions:
                if subscription.is_ready:
                    self._lost(subscription, "it is gone")
        except DeliveryError:  # it says no more than which; and in other words each time
            self._refused(publication.number, "RabbitMQ does not confirm it: is a queue of it full?")
        except _UNREACHABLE as error:
            if channel is self._publisher:  # it is sent again with the next connection
                self._cut_off(plain(error))
        else:
            await self._accepted(publication.number)

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        assert isinstance(delivery.subscription, AmqpSubscription)
        self._tell_soon(delivery.subscription, *delivery.handle)

    def _tell_soon(self, subscription: AmqpSubscription, channel: Any, tag: int) -> None:
        """Confirms come in bunches, and so do settlings: one frame for many spares both sides work."""
        if channel is not subscription.channel:
            return  # it comes again on the new one, and is known
        subscription.tags.settle(tag)
        if subscription.telling is None:
            subscription.telling = asyncio.create_task(self._tell(subscription))

    async def _tell(self, subscription: AmqpSubscription) -> None:
        try:
            with contextlib.suppress(*_UNREACHABLE):
                while (channel := subscription.channel) is not None and not channel.is_closed:
                    told = subscription.tags.take_settled()
                    if not told:
                        return
                    for tag, multiple in told:
                        await channel.basic_ack(tag, multiple=multiple, wait=False)
        finally:
            subscription.telling = None

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        if delay > 0:
            # RabbitMQ cannot wait: we keep it so long. If we die it comes at once.
            loop = asyncio.get_running_loop()
            self._delayed[delivery] = loop.call_later(delay, self._when_due, delivery)
        else:
            await self._requeue(delivery)

    def _when_due(self, delivery: BrokerDelivery) -> None:
        del self._delayed[delivery]
        self._begin(self._requeue(delivery))

    async def _requeue(self, delivery: BrokerDelivery) -> None:
        channel, tag = delivery.handle
        assert isinstance(delivery.subscription, AmqpSubscription)
        with contextlib.suppress(*_UNREACHABLE):
            if not channel.is_closed:
                await channel.basic_nack(tag, requeue=True, wait=False)
                if channel is delivery.subscription.channel:
                    delivery.subscription.tags.handed_back(tag)

    async def _tick(self, now: float) -> None:
        others = self._queues_of_others()
        if others != self._others:
            self._others = others
            self._others_want = TopicSet(pattern for patterns in others.values() for pattern in patterns)
        await super()._tick(now)

    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        """The connection's heartbeat says that we live."""

    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        """Of what other hosts hold RabbitMQ says nothing to its clients."""
        assert isinstance(subscription, AmqpSubscription)
        try:
            channel = subscription.channel
            if channel is None or channel.is_closed:
                raise ConnectionError("there is no channel")
            # Shielded: the client ends the channel of a call that is cancelled.
            asking = asyncio.ensure_future(
                channel.queue_declare(subscription.queue, passive=True, timeout=_ANSWER_S)
            )
            asking.add_done_callback(_looked_at)
            answer = await asyncio.shield(asking)
        except ChannelNotFoundEntity:
            raise ConnectionError("the queue is gone") from None
        except _UNREACHABLE as error:
            raise ConnectionError(plain(error)) from None
        own = len(subscription._held) + sum(d.subscription is subscription for d in self._delayed)
        return Backlog(answer.message_count or 0, own)


def _looked_at(task: "asyncio.Future[Any]") -> None:
    """Whoever asked may be gone; then nobody else looks at the error."""
    if not task.cancelled():
        task.exception()


def _given_up() -> AMQPConnectionError:
    """What those hear who wait for an answer on a connection that we close; else aiormq cancels them."""
    return AMQPConnectionError("it was given up")


def _reason(closing: "asyncio.Future[Any]") -> str:
    error = None if closing.cancelled() else closing.exception()
    if isinstance(error, asyncio.CancelledError):  # aiormq ends so what hears no heartbeat
        return "the server does not answer"
    return plain(error) if error is not None else "it was closed"


def open_amqp(url: str) -> AmqpTransport:
    """The transport that an amqp:// URL names, not yet open; raises `SettingsError` for a wrong one."""
    port = TLS_PORT if url.startswith("amqp+tls:") else PORT
    return AmqpTransport(parse_endpoint(url, port=port, options=OPTIONS))
