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
from typing import Any, ClassVar, Final

import aiormq
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelNotFoundEntity, ConnectionClosed, DeliveryError, PublishError
from pamqp.commands import Basic
from yarl import URL

from echo_core.errors import TransportError
from echo_core.transports import broker
from echo_core.transports.base import Capabilities
from echo_core.transports.broker import (
    Backlog,
    BrokerDelivery,
    BrokerSubscription,
    BrokerTransport,
    Publication,
    backoff,
    end_task,
    plain,
)
from echo_core.transports.endpoint import Endpoint, parse_endpoint

PORT: Final = 5672
TLS_PORT: Final = 5671
OPTIONS: Final = broker.OPTIONS | {"queue_type", "largest"}
_LARGEST: Final = 16 * 2**20
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_NEVER: Final = 1_000_000
"""Redeliveries after which RabbitMQ would drop a message; 4.0 does so after 20 unless told otherwise."""
_PERSISTENT: Final = 2
_UNREACHABLE: Final = (AMQPError, OSError, TimeoutError, RuntimeError)
"""RuntimeError is what aiormq raises for channels of a connection that has ended."""

# It reports as errors what is told and mended here.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class AmqpSubscription(BrokerSubscription):
    """A queue, and the channel that it is consumed on."""

    channel: Any = None
    consumer_tag = ""

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
        accepted="RabbitMQ has confirmed it: it is in every queue that wants it, on most of their replicas.",
        settled="RabbitMQ is being told. If it never hears, the host knows when the message comes again.",
    )
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
        self._reconnecting: asyncio.Task[None] | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._delayed: dict[BrokerDelivery, asyncio.TimerHandle] = {}

    # -- connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        try:
            await self._open_connection()
        except (*_UNREACHABLE, TransportError) as error:
            await self._close_connection()
            if isinstance(error, TransportError):
                raise
            raise TransportError(
                "RabbitMQ cannot be used",
                where=self.endpoint.public,
                why=plain(error),
                fix="start the server, or mend host.transport",
            ) from None

    async def _open_connection(self) -> None:
        """Connect to the first server that answers, and see to the exchange."""
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
        connection.closing.add_done_callback(lambda closing: self._connection_ended(connection, closing))
        await self._ensure_exchange()
        self._publisher = await self._connection.channel(publisher_confirms=True)
        publisher = self._publisher
        publisher.closing.add_done_callback(lambda closing: self._publisher_ended(publisher, closing))

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

    def _cut_off(self, why: str) -> None:
        if self._reconnecting is None and self._open and self.is_connected:
            self._connection_lost(why)
            self._reconnecting = asyncio.create_task(self._reconnect(), name="amqp reconnect")

    async def _reconnect(self) -> None:
        for delay in backoff():
            await self._close_connection()
            await asyncio.sleep(delay)
            try:
                await self._open_connection()
                for subscription in list(self._subscriptions):
                    if subscription.is_ready:
                        await self._establish(subscription)
            except (*_UNREACHABLE, TransportError) as error:
                self._connection_lost(plain(error))
                continue
            break
        self._reconnecting = None
        await self._connection_made()

    async def _close_connection(self) -> None:
        connection, self._connection, self._publisher = self._connection, None, None
        await asyncio.gather(*(end_task(task) for task in list(self._publishing)))
        if connection is not None:
            with contextlib.suppress(*_UNREACHABLE):
                async with asyncio.timeout(1):
                    await connection.close()

    async def _disconnect(self) -> None:
        await end_task(self._reconnecting)
        self._reconnecting = None
        for timer in self._delayed.values():
            timer.cancel()
        self._delayed.clear()
        await self._close_connection()

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

    def _missing(self, what: str) -> TransportError:
        return TransportError(
            f"{what} is missing",
            where=self.endpoint.public,
            why="create=no says not to make it",
            fix="make it, or leave create=no out",
        )

    @staticmethod
    async def _close_channel(channel: Any) -> None:
        with contextlib.suppress(*_UNREACHABLE):
            async with asyncio.timeout(1):
                if not channel.is_closed:
                    await channel.close()

    # -- subscriptions --------------------------------------------------------------------------------

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, AmqpSubscription)
        if self._connection is None:
            raise ConnectionError("there is no connection")
        try:
            await self._ensure_queue(subscription)
            await self._consume(subscription)
        except (ConnectionClosed, ConnectionError, TimeoutError) as error:
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

    async def _ensure_queue(self, subscription: AmqpSubscription) -> None:
        channel = await self._connection.channel(publisher_confirms=False)
        arguments: dict[str, Any] = {"x-queue-type": self._queue_type}
        if self._queue_type == "quorum":
            arguments["x-delivery-limit"] = _NEVER
        try:
            await channel.queue_declare(
                subscription.queue,
                durable=True,
                passive=not self.may_create,
                arguments=arguments if self.may_create else None,
                timeout=_ANSWER_S,
            )
            if self.may_create:
                for pattern in subscription.patterns:
                    await channel.queue_bind(
                        subscription.queue, self._exchange, routing_key=pattern.text, timeout=_ANSWER_S
                    )
        finally:
            await self._close_channel(channel)

    async def _consume(self, subscription: AmqpSubscription) -> None:
        old, subscription.channel = subscription.channel, None
        if old is not None:
            await self._close_channel(old)
        channel = await self._connection.channel(publisher_confirms=False)
        channel.on_consumer_cancel_callbacks.add(lambda frame: self._cancelled(subscription, channel))
        await channel.basic_qos(prefetch_count=2 * subscription.prefetch, timeout=_ANSWER_S)
        subscription.channel = channel
        subscription.asked = subscription.prefetch
        answer = await channel.basic_consume(
            subscription.queue,
            lambda message: self._arrived(subscription, channel, message),
            timeout=_ANSWER_S,
        )
        subscription.consumer_tag = answer.consumer_tag
        channel.closing.add_done_callback(
            lambda closing: self._consumer_ended(subscription, channel, closing)
        )

    def _cancelled(self, subscription: AmqpSubscription, channel: Any) -> None:
        if channel is subscription.channel:
            self._lost(subscription, "the queue was deleted")

    def _consumer_ended(
        self, subscription: AmqpSubscription, channel: Any, closing: "asyncio.Future[Any]"
    ) -> None:
        if channel is subscription.channel and not subscription._is_closing:
            self._cut_off(_reason(closing))

    async def _arrived(self, subscription: AmqpSubscription, channel: Any, message: DeliveredMessage) -> None:
        delivery, properties = message.delivery, message.header.properties
        assert isinstance(delivery, Basic.Deliver)
        counted = (properties.headers or {}).get("x-delivery-count")
        attempt = 1 + (int(counted) if isinstance(counted, int) else bool(delivery.redelivered))
        handle = (channel, delivery.delivery_tag)
        key = properties.message_id or handle
        held = subscription._held.get(key)
        if held is not None and held.handle[0] is channel:
            # Published twice, around the loss of a connection. The first copy is enough.
            await channel.basic_ack(delivery.delivery_tag, wait=False)
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
                    await subscription.channel.basic_cancel(subscription.consumer_tag)
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
                # What no queue wants is accepted, and gone; but ours want this, if they are still there.
                mandatory=bool(publication.subscriptions),
                wait=False,
            )
        except PublishError:
            self._refused(publication.number, "no queue takes it")
            for subscription in publication.subscriptions:
                if subscription.is_ready:
                    self._lost(subscription, "it is gone")
        except DeliveryError as error:
            self._refused(publication.number, f"RabbitMQ does not confirm it: {plain(error)}")
        except _UNREACHABLE as error:
            if channel is self._publisher:  # it is sent again with the next connection
                self._cut_off(plain(error))
        else:
            await self._accepted(publication.number)

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        channel, tag = delivery.handle
        with contextlib.suppress(*_UNREACHABLE):
            if not channel.is_closed:
                await channel.basic_ack(tag, wait=False)

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
        with contextlib.suppress(*_UNREACHABLE):
            if not channel.is_closed:
                await channel.basic_nack(tag, requeue=True, wait=False)

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


def _reason(closing: "asyncio.Future[Any]") -> str:
    error = None if closing.cancelled() else closing.exception()
    return plain(error) if error is not None else "it was closed"


def open_amqp(url: str) -> AmqpTransport:
    """The transport that an amqp:// URL names, not yet open; raises `SettingsError` for a wrong one."""
    port = TLS_PORT if url.startswith("amqp+tls:") else PORT
    return AmqpTransport(parse_endpoint(url, port=port, options=OPTIONS))
