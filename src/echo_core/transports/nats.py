"""NATS JetStream: `nats://` and `nats+tls://`, with nats-py (the extra `echo-core[nats]`).

One stream holds the messages, under subjects `<prefix>.<topic>`, each until every plugin that wants it has
settled it (retention "interest"). Every subscription name is a durable pull consumer; hosts that share it
ask for as many messages as they have room for.

Options: `prefix` (of the subjects; default echo), `stream` (its name; default the prefix in capitals),
`create=no` (refuse when the stream or a consumer is missing, rather than make it), `lease` (seconds after
which what a silent host holds goes to others; default 8), `storage` (file or memory) and `replicas` (of a
stream that is made), `domain` (of JetStream), `credentials` (a .creds file with user JWT and NKey seed),
`nkey` (a file with an NKey seed). A user without a password is a token.

The protocol spoken here is that of ADR-1 (JetStream's API), ADR-13 (pull requests) and ADR-15 (answers to
deliveries) of https://github.com/nats-io/nats-architecture-and-design.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, ClassVar, Final

from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy, RetentionPolicy, StorageType
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from echo_core.errors import SettingsError, TransportError
from echo_core.topics import TopicPattern
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
from echo_core.transports.endpoint import Endpoint, parse_endpoint, read_secret

PORT: Final = 4222
OPTIONS: Final = broker.OPTIONS | {"stream", "storage", "replicas", "domain", "credentials", "nkey"}
_CONNECT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.2
"""Before the second attempt to connect."""
_PING_S: Final = 5
"""Three pings without an answer, and the connection is given up."""
_PULL_BYTES: Final = 16 * 2**20
"""Of a pull request; large messages are not fetched by the hundreds."""
_ACK_PENDING: Final = 65_536
"""Deliveries of one consumer that all hosts together may hold."""
_API_S: Final = 3.0
_MANY_FILTERS_SINCE: Final = (2, 10)
_GONE: Final = ("Consumer Deleted", "Stream Deleted", "Stream Not Found")


def filters_for(patterns: Sequence[TopicPattern], *, many: bool = True) -> list[str]:
    """NATS subjects that cover every topic that one of the patterns means, and no two of which overlap.

    `*` is the same there. `>` is one or more words and only comes last, so a pattern with `#` may be covered
    by more than it means. Without `many` the answer is one subject.
    """
    covers: list[tuple[str, ...]] = []
    for pattern in patterns:
        for cover in _covers_of(pattern.words):
            covers = _with(covers, cover)
    if not many and len(covers) > 1:
        covers = [_common(covers)]
    return [".".join(words) for words in covers]


def _covers_of(words: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    if "#" not in words:
        yield words
        return
    at = words.index("#")
    rest = [word for word in words[at:] if word != "#"]
    yield (*words[:at], ">")
    if not rest and at:
        yield words[:at]


def _with(covers: list[tuple[str, ...]], new: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The covers and one more, made wider until no two of them overlap."""
    for cover in covers:
        if _overlap(cover, new):
            others = [other for other in covers if other is not cover]
            return _with(others, cover if _holds(cover, new) else _wider(cover, new))
    return [*covers, new]


def _wider(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return other if _holds(other, one) else _common([one, other])


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    for mine, theirs in zip(one, other, strict=False):
        if ">" in (mine, theirs):
            return True
        if "*" not in (mine, theirs) and mine != theirs:
            return False
    return len(one) == len(other)


def _holds(cover: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether `cover` means everything that `other` means."""
    for at, word in enumerate(cover):
        if word == ">":
            return len(other) > at
        if at >= len(other) or other[at] == ">" or (word not in ("*", other[at])):
            return False
    return len(cover) == len(other)


def _common(covers: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What they begin with alike, and then anything: at least one word, as each of them has one more."""
    shortest = min(len(words) for words in covers)
    same = 0
    while same < shortest - 1 and len({words[same] for words in covers}) == 1 and covers[0][same] != ">":
        same += 1
    return (*covers[0][:same], ">")


class NatsSubscription(BrokerSubscription):
    """A durable consumer, and the inbox that it delivers to."""

    transport: "NatsTransport"
    inbox = ""
    listener: Any = None
    created: object = None
    """When the consumer was made; another time means another consumer."""
    is_in_doubt = False
    """Whether to look if the consumer is still there."""
    was_lost = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.pulls: deque[list[float]] = deque()
        """[number, deliveries still to come, when it ends] of each request, oldest first."""
        self.pull_number = 0

    async def on_message(self, msg: Msg) -> None:
        """A delivery, or the end of a pull request."""
        reply = msg.reply
        if not reply:
            self._pull_ended(msg)
            return
        pulls = self.pulls
        if pulls:
            pulls[0][1] -= 1
            if pulls[0][1] <= 0:
                pulls.popleft()
        # $JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<delivered>.<sequence>.<>.<time>.<pending>[.<>]
        tokens = reply.split(".")
        first = 4 if len(tokens) < 11 else 6
        transport = self.transport
        surplus = self.arrived(
            int(tokens[first + 1]),
            msg.subject[transport.topic_at :],
            msg.data,
            int(tokens[first]),
            reply,
            int(tokens[first + 4]),
        )
        if surplus is not None:
            await transport._acknowledge(surplus)
            if self.asked <= self.prefetch // 4:
                await self.top_up()

    def _pull_ended(self, msg: Msg) -> None:
        headers = msg.headers or {}
        status, why = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        number = int(msg.subject.rpartition(".")[2])
        for pull in self.pulls:
            if pull[0] == number:
                self.pulls.remove(pull)
                self.asked = max(0, self.asked - int(pull[1]))
                break
        if status == "503" or why in _GONE:
            self.is_in_doubt = True


class NatsTransport(BrokerTransport):
    """Messages in a JetStream stream."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        accepted="The stream has stored it: the server, and as many others as the stream has replicas.",
        settled="The server was told. If it did not hear it, this host knows when the message comes again.",
    )
    subscription_type = NatsSubscription

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self._stream = endpoint.text("stream", self.prefix.upper().replace(".", "_"))
        if not self._stream or not self._stream.replace("-", "").replace("_", "").isalnum():
            raise SettingsError(
                f"{self._stream!r} is no name of a stream",
                where="host.transport",
                fix="letters, digits, - and _",
            )
        self._storage = endpoint.chosen("storage", "file", "file", "memory")
        self._replicas = endpoint.number("replicas", 1, int, least=1)
        # Short, for the server does not see that a host has died, and goes on serving its requests.
        self._pull_s = self.lease_s / 2
        domain = endpoint.text("domain", "")
        self._api = f"$JS.{domain}.API" if domain else "$JS.API"
        self.topic_at = len(self.prefix) + 1
        self._client = Client()
        self._jetstream = JetStreamContext(self._client)
        self._answers = ""
        self._number_at = 0
        self._reconnecting: asyncio.Task[None] | None = None
        self._last_error = ""

    # -- connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._client = await self._new_client()
        try:
            await self._listen()
            await self._ensure_stream()
        except (NatsError, APIError, OSError, TimeoutError, TransportError) as error:
            await self._disconnect()
            if isinstance(error, TransportError):
                raise
            raise self._unusable(plain(error), "is JetStream switched on? (nats-server -js)") from None

    def _unusable(self, why: str, fix: str) -> TransportError:
        return TransportError("NATS cannot be used", where=self.endpoint.public, why=why, fix=fix)

    async def _new_client(self) -> Client:
        """A connected client; raises `TransportError` with what the server said."""
        client = Client()
        refused = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            self._last_error = plain(error)
            if "authorization" in self._last_error.lower() and not refused.done():
                refused.set_result(None)

        async def on_disconnected() -> None:
            if client is self._client:
                self._connection_lost(self._last_error or "it was lost")

        async def on_reconnected() -> None:
            if client is self._client:
                await self._reconnected()

        async def on_closed() -> None:
            # The client gives up where the server turns it away; we do not: the operator may mend it.
            if client is self._client and self._open and self._reconnecting is None:
                self._connection_lost(self._last_error or "the server closed it")
                self._reconnecting = asyncio.create_task(self._reconnect())

        self._last_error = ""
        connecting = asyncio.create_task(
            client.connect(
                servers=[_server(host, port) for host, port in self.endpoint.hosts],
                name="echo-core",
                error_cb=on_error,
                disconnected_cb=on_disconnected,
                reconnected_cb=on_reconnected,
                closed_cb=on_closed,
                connect_timeout=2,
                max_reconnect_attempts=-1,
                reconnect_time_wait=_FIRST_PAUSE_S,  # type: ignore[arg-type]  # a fraction will do
                reconnect_to_server_handler=_next_server,
                ping_interval=_PING_S,
                # What is published without a connection is refused, and sent again by ourselves.
                pending_size=0,
                skip_subject_validation=True,  # topics and our own subjects are checked already
                tls=self.endpoint.tls,
                **self._who_we_are(),
            )
        )
        await asyncio.wait([connecting, refused], timeout=_CONNECT_S, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
            return client
        error = connecting.exception() if connecting.done() else None
        await end_task(connecting)
        with contextlib.suppress(NatsError, OSError):
            await client.close()
        why = plain(error) if error else self._last_error or f"no answer within {_CONNECT_S:g} s"
        raise self._unusable(why, "start the server, or mend host.transport")

    def _who_we_are(self) -> dict[str, Any]:
        """The client's arguments that say who we are."""
        endpoint = self.endpoint
        if file := endpoint.text("credentials", ""):
            read_secret(file)
            return {"user_credentials": file}
        if file := endpoint.text("nkey", ""):
            return {"nkeys_seed_str": read_secret(file)}
        if endpoint.user and not endpoint.password:
            return {"token": endpoint.user}
        if endpoint.user:
            return {"user": endpoint.user, "password": endpoint.password.reveal()}
        return {}

    async def _listen(self) -> None:
        """Hear the server's answers to publications."""
        client = self._client
        self._jetstream = JetStreamContext(client, prefix=self._api, timeout=_API_S)
        self._answers = client.new_inbox() + "."
        self._number_at = len(self._answers)
        await client.subscribe(self._answers + "*", cb=self._on_answer, pending_bytes_limit=0)
        self.payload_limit = client.max_payload

    async def _disconnect(self) -> None:
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            self._reconnecting = None
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(_API_S):
                if self._client.is_connected:
                    await self._client.flush(1)
                await self._client.close()

    async def _reconnected(self) -> None:
        self.payload_limit = self._client.max_payload
        for subscription in self._nats_subscriptions():
            subscription.pulls.clear()
            subscription.is_in_doubt = True  # a server that kept nothing on disk has forgotten it
        await self._connection_made()

    async def _reconnect(self) -> None:
        """A new client, after the old one has given up."""
        for delay in backoff():
            try:
                self._client = await self._new_client()
                await self._listen()
                for subscription in self._nats_subscriptions():
                    await self._hear(subscription)
            except (TransportError, NatsError, OSError, TimeoutError) as error:
                self._connection_lost(plain(error))
                await asyncio.sleep(delay)
            else:
                self._reconnecting = None
                await self._reconnected()
                return

    def _nats_subscriptions(self) -> list[NatsSubscription]:
        return [one for one in self._subscriptions if isinstance(one, NatsSubscription)]

    # -- stream and consumers -------------------------------------------------------------------------

    async def _ensure_stream(self) -> None:
        subjects = f"{self.prefix}.>"
        try:
            config = (await self._jetstream.stream_info(self._stream)).config
        except NotFoundError:
            if not self.may_create:
                raise self._missing(f"the stream {self._stream}") from None
            for subscription in self._nats_subscriptions():  # their consumers went with it
                self._queue_lost(subscription, f"the stream {self._stream} is gone")
            await self._jetstream.add_stream(
                name=self._stream,
                description="Messages of Echo Core, each until every plugin that wants it has settled it.",
                subjects=[subjects],
                retention=RetentionPolicy.INTEREST,
                storage=StorageType(self._storage),
                num_replicas=self._replicas,
            )
            return
        if subjects not in (config.subjects or ()) and ">" not in (config.subjects or ()):
            raise TransportError(
                f"the stream {self._stream} does not hold {subjects}",
                where=self.endpoint.public,
                why=f"its subjects are {', '.join(config.subjects or ())}",
                fix="name another one with the options stream and prefix, or add the subject to it",
            )
        if config.retention == RetentionPolicy.WORK_QUEUE:
            raise TransportError(
                f"the stream {self._stream} gives each message to one plugin only",
                where=self.endpoint.public,
                why="its retention is workqueue",
                fix="use one whose retention is interest, or limits",
            )
        if config.max_msg_size is not None and config.max_msg_size > 0:
            self.payload_limit = min(self.payload_limit, config.max_msg_size)

    def _missing(self, what: str) -> TransportError:
        return TransportError(
            f"{what} is missing",
            where=self.endpoint.public,
            why="create=no says not to make it",
            fix="make it, or leave create=no out",
        )

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        subscription.transport = self
        try:
            await self._ensure_stream()
            subscription.created = (await self._ensure_consumer(subscription)).created
            if not subscription.inbox:
                await self._hear(subscription)
        except ServiceUnavailableError as error:
            raise ConnectionError(plain(error)) from None
        except APIError as error:
            raise self._unusable(error.description or plain(error), "see the server's log") from None
        except NatsError as error:
            raise ConnectionError(plain(error)) from None
        subscription.is_in_doubt = False

    async def _ensure_consumer(self, subscription: NatsSubscription) -> ConsumerInfo:
        name = subscription.name
        if not name or not name.replace("-", "").replace("_", "").isalnum():
            raise TransportError(f"{name!r} cannot be the name of a consumer", fix="letters, digits, - and _")
        wanted = self._filters(subscription)
        try:
            found: ConsumerInfo | None = await self._jetstream.consumer_info(self._stream, name)
        except NotFoundError:
            found = None
        if found is None and not self.may_create:
            raise self._missing(f"the consumer {name} of the stream {self._stream}")
        if found is not None:
            config = found.config
            if config.deliver_subject or config.ack_policy not in (None, AckPolicy.EXPLICIT):
                raise TransportError(
                    f"the consumer {name} of the stream {self._stream} cannot be used",
                    where=self.endpoint.public,
                    why="it is no pull consumer with explicit acknowledgement",
                    fix="delete it, or choose another prefix and stream",
                )
            if sorted(config.filter_subjects or [config.filter_subject or ">"]) == sorted(wanted):
                return found
            if not self.may_create:
                return found  # the operator's filter; what we do not want is passed over
        else:
            config = ConsumerConfig(
                durable_name=name,
                # A consumer that vanished begins with the oldest: rather twice than never.
                deliver_policy=DeliverPolicy.ALL if subscription.was_lost else DeliverPolicy.NEW,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self.lease_s,
                max_ack_pending=_ACK_PENDING,
            )
        one = len(wanted) == 1
        made: ConsumerInfo = await self._jetstream.add_consumer(
            self._stream,
            config.evolve(filter_subject=wanted[0] if one else None, filter_subjects=None if one else wanted),
        )
        return made

    def _filters(self, subscription: NatsSubscription) -> list[str]:
        version = self._client.connected_server_version
        many = (version.major, version.minor) >= _MANY_FILTERS_SINCE
        return [f"{self.prefix}.{cover}" for cover in filters_for(subscription.patterns, many=many)]

    async def _hear(self, subscription: NatsSubscription) -> None:
        subscription.inbox = self._client.new_inbox() + "."
        subscription.listener = await self._client.subscribe(
            subscription.inbox + "*",
            cb=subscription.on_message,
            pending_msgs_limit=0,
            pending_bytes_limit=0,  # pull requests are the limit; nats-py would drop what is beyond its own
        )

    async def _stop(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        if subscription.listener is None or not self.is_connected:
            return
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(1):
                await subscription.listener.drain()

    async def _look_after(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        now = monotonic()
        while subscription.pulls and subscription.pulls[0][2] < now:  # the server has forgotten it
            subscription.asked = max(0, subscription.asked - int(subscription.pulls.popleft()[1]))
        if subscription.is_in_doubt and subscription.is_ready:
            try:
                found = await self._jetstream.consumer_info(self._stream, subscription.name)
            except NotFoundError as error:
                self._queue_lost(subscription, error.description or "it is gone")
            except (NatsError, APIError) as error:
                raise ConnectionError(plain(error)) from None
            else:
                subscription.is_in_doubt = False
                if found.created != subscription.created:
                    self._queue_lost(subscription, "somebody else has made it anew")

    def _queue_lost(self, subscription: NatsSubscription, why: str) -> None:
        subscription.pulls.clear()
        subscription.was_lost = True
        self._lost(subscription, why)

    # -- messages -------------------------------------------------------------------------------------

    async def _send(self, publication: Publication) -> None:
        # Without a connection it is sent when there is one.
        with contextlib.suppress(NatsError):
            await self._client.publish(
                f"{self.prefix}.{publication.topic}",
                publication.payload,
                f"{self._answers}{publication.number}",
            )

    async def _on_answer(self, msg: Msg) -> None:
        """The server's answer to a publication: {"stream": ..., "seq": ...} or {"error": ...}."""
        number = int(msg.subject[self._number_at :])
        data = msg.data
        if data and not data.startswith(b'{"error"'):
            await self._accepted(number)
        elif data:
            self._refused(number, data.decode(errors="replace"))
        else:
            self._refused(number, f"no stream answers for {self.prefix}.>")
            for subscription in self._nats_subscriptions():
                subscription.is_in_doubt = True

    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        assert isinstance(subscription, NatsSubscription)
        subscription.pull_number += 1
        subscription.pulls.append([subscription.pull_number, count, monotonic() + self._pull_s + 2])
        most = max(_PULL_BYTES, 2 * self.payload_limit)
        with contextlib.suppress(NatsError):
            await self._client.publish(
                f"{self._api}.CONSUMER.MSG.NEXT.{self._stream}.{subscription.name}",
                b'{"batch":%d,"expires":%d,"max_bytes":%d}' % (count, self._pull_s * 1e9, most),
                f"{subscription.inbox}{subscription.pull_number}",
            )

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        with contextlib.suppress(NatsError):  # without a connection it comes again, and is known then
            await self._client.publish(delivery.handle)

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        payload = b'-NAK {"delay":%d}' % int(delay * 1e9) if delay > 0 else b"-NAK"
        with contextlib.suppress(NatsError):
            await self._client.publish(delivery.handle, payload)

    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        with contextlib.suppress(NatsError):
            for delivery in deliveries:
                await self._client.publish(delivery.handle, b"+WPI")

    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        try:
            info = await self._jetstream.consumer_info(self._stream, subscription.name)
        except (NatsError, APIError) as error:
            raise ConnectionError(plain(error)) from None
        return Backlog(info.num_pending or 0, info.num_ack_pending or 0)


def _server(host: str, port: int) -> str:
    return f"nats://[{host}]:{port}" if ":" in host else f"nats://{host}:{port}"


def _next_server(servers: list[Server], info: dict[str, Any]) -> tuple[Server, float]:
    """The one that failed least, after a pause that grows with its failures, with full jitter."""
    chosen = min(servers, key=lambda server: server.reconnects)
    bound = min(0.1 * 2 ** min(chosen.reconnects, 10), 5.0)
    return chosen, random.uniform(0.0, bound)  # noqa: S311  (no secret)


def open_nats(url: str) -> NatsTransport:
    """The transport that a nats:// URL names, not yet open; raises `SettingsError` for a wrong one."""
    return NatsTransport(parse_endpoint(url, port=PORT, options=OPTIONS))
