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
from math import inf
from time import monotonic
from typing import Any, ClassVar, Final

from nats.aio.client import Client, Server
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
)
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from echo_core.errors import SettingsError, TransportError
from echo_core.topics import TopicPattern
from echo_core.transports.base import Capabilities
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import Publication
from echo_core.transports.broker.recovery import end_task, plain, within
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from echo_core.transports.broker.transport import OPTIONS as COMMON_OPTIONS
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.endpoint import Endpoint, parse_endpoint, read_secret

PORT: Final = 4222
OPTIONS: Final = COMMON_OPTIONS | {"stream", "storage", "replicas", "domain", "credentials", "nkey"}
_CONNECT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.2
"""Before the second attempt to connect."""
_PING_S: Final = 5
"""Three pings without an answer, and the connection is given up."""
_PROBE_S: Final = 3.0
"""Between two questions whether the server is still there, and how long it may take to answer."""
_PULL_BYTES: Final = 16 * 2**20
"""Of a pull request; large messages are not fetched by the hundreds."""
_MORE_AGAIN_S: Final = 60.0
"""So long after a lost connection a request may be for twice as much again."""
_ACK_PENDING: Final = 65_536
"""Deliveries of one consumer that all hosts together may hold."""
_API_S: Final = 3.0
_MANY_FILTERS_SINCE: Final = (2, 10)
_ALONE_AFTER: Final = 1_000
"""Deliveries in a row that came here, after which there are no other hosts."""
_MOST_ASKED_BACK: Final = 20_000
"""Messages of the stream that are gone through after a lost connection."""
_MOST_WAITED_S: Final = 8.0
"""For that; it is sent at once."""
_HANDED_BACK_S: Final = 0.5
"""What a host that has stopped handed back comes within this time."""
_AGAIN_S: Final = 0.02
"""Between two questions whether what was lost on the way has come again."""
_NO_TLS: Final = "the server offers no TLS"
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


def _cover(subjects: Iterable[str], others: Iterable[str]) -> bool:
    """Whether each of the others means only what one of these subjects means."""
    covers = [tuple(subject.split(".")) for subject in subjects]
    return all(any(_holds(cover, tuple(other.split("."))) for cover in covers) for other in others)


def _filters_of(config: ConsumerConfig) -> list[str]:
    return config.filter_subjects or [config.filter_subject or ">"]


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
        self.reply = ""
        """Where the newest delivery is answered."""
        self.last = 0
        """Counts the consumer's deliveries, to any host; as far as this one knows."""
        self.shared_at = 0
        """The last one before which there was one that did not come here: other hosts take from the queue."""

    def connection_lost(self) -> None:
        """Hand nothing on, until it is known what was lost on the way."""
        self.last = 0
        self.put_arrivals_aside()

    def answer_to(self, sequence: str, count: int) -> str:
        """Where to answer a delivery that did not come."""
        tokens = self.reply.split(".")
        first = 4 if len(tokens) < 11 else 6
        tokens[first : first + 3] = "1", sequence, str(count)
        return ".".join(tokens)

    @property
    def is_alone(self) -> bool:
        """Whether no other host seems to take from the queue."""
        if self.transport.peers.share(self.name):
            return False
        return not self.shared_at or self.last - self.shared_at > _ALONE_AFTER

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
        self.reply = reply
        transport = self.transport
        count = int(tokens[first + 2])
        if count > self.last:
            # Not after a loss: what is missing was lost, and what the old connection brought is still coming.
            if count - self.last > 1 and self.last and self._arriving is self._buffer:
                self.shared_at = count
            self.last = count
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


class _Client(Client):
    """One that says nothing without TLS where TLS was asked for.

    nats-py takes the server's word for it, which anybody on the way can change, and goes on in plain text.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and "tls" in self.options:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise NatsError(_NO_TLS)
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class NatsTransport(BrokerTransport):
    """Messages in a JetStream stream."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        presence=True,
        accepted="The stream has stored it: the server, and as many others as the stream has replicas.",
        settled="The server was told. If it did not hear it, this host knows when the message comes again.",
    )
    broker = "NATS"
    client_errors = (NatsError, APIError)
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
        self._client: Client = _Client()
        self._jetstream = JetStreamContext(self._client)
        self._answers = ""
        self._number_at = 0
        self._last_error = ""
        self._probe: asyncio.Task[None] | None = None
        self._probed = 0.0
        self._unanswered = 0
        self._pull_bytes = _PULL_BYTES
        """Less after connections were lost: a server throws out whom it has too much to tell."""
        self._lost_at = 0.0

    # -- connection -----------------------------------------------------------------------------------

    async def _connect(self) -> None:
        await self._disconnect()
        self._lost_at_once = ""  # it was we who closed it
        self._client = await self._new_client()
        for subscription in self._nats_subscriptions():
            subscription.listener = None
        await self._listen()
        await self._ensure_stream()

    def _advice(self, error: Exception) -> str:
        return "is JetStream switched on? (nats-server -js)"

    def _connection_lost(self, why: str) -> None:
        # Not when there is a new one: deliveries come on that before we are told of it.
        for subscription in self._nats_subscriptions():
            subscription.connection_lost()
        super()._connection_lost(why)

    async def _new_client(self) -> Client:
        """A connected client; raises `TransportError` with what the server said."""
        client = _Client()
        refused = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            self._last_error = plain(error)
            if "authorization" in self._last_error.lower() and not refused.done():
                refused.set_result(None)

        async def on_disconnected() -> None:
            # What the client could not send it would send on the new connection, before what was lost.
            client._pending.clear()
            client._pending_data_size = 0
            if client is self._client:
                self._pull_bytes, self._lost_at = max(2**16, self._pull_bytes // 2), monotonic()
                self._connection_lost(self._last_error or "it was lost")

        async def on_reconnected() -> None:
            if client is self._client and self.is_reachable:
                self.payload_limit = client.max_payload
                await self._connection_made()

        async def on_closed() -> None:
            # The client gives up where the server turns it away; we do not: the operator may mend it.
            if client is self._client:
                self._cut_off(self._last_error or "the server closed it")

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
        is_refused = "authorization" in why.lower()
        if not is_refused and (error or self._last_error) and _was_asked_who_we_are(client):
            is_refused = True
            why = f"authorization violation, it seems: the server hung up on user and password ({why})"
        raise self._unusable(why, "mend user and password" if is_refused else self._how_to_connect(why))

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
        await client.subscribe(f"{self.prefix}-hosts", cb=self._on_announcement)
        self.payload_limit = client.max_payload

    async def _on_announcement(self, msg: Msg) -> None:
        self._heard_of(msg.data)

    async def announce(self, host: str, document: bytes) -> None:
        # Beside the stream: who is not there to hear it need not hear it later.
        with contextlib.suppress(NatsError):
            await self._client.publish(f"{self.prefix}-hosts", b"%b\n%b" % (host.encode(), document))

    async def _tick(self, now: float) -> None:
        await super()._tick(now)
        if self._pull_bytes < _PULL_BYTES and now - self._lost_at > _MORE_AGAIN_S:
            self._pull_bytes, self._lost_at = 2 * self._pull_bytes, now
        if self._probe is None or (self._probe.done() and now - self._probed > _PROBE_S):
            self._probed = now
            self._probe = asyncio.create_task(self._is_answered(), name="nats probe")

    async def _is_answered(self) -> None:
        """A server that is cut off says nothing about it, and the client does not always notice."""
        client = self._client
        try:
            await within(_PROBE_S, client.flush(int(_PROBE_S)))
            self._unanswered = 0
        except (NatsError, OSError, TimeoutError):
            self._unanswered += 1
            # Not at the first: a plugin that blocks the event loop makes an answer late.
            if self._unanswered > 1 and client is self._client and client.is_connected:
                self._cut_off("the server does not answer")

    async def _disconnect(self) -> None:
        await end_task(self._probe)
        self._probe, self._unanswered = None, 0
        if not self._answers:
            return  # it was never connected
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(_API_S):
                if self._client.is_connected:
                    await self._client.flush(1)
                await self._client.close()

    async def _resume(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        if subscription.listener is None:
            await self._hear(subscription)
        subscription.pulls.clear()
        subscription.is_in_doubt = True  # a server that kept nothing on disk has forgotten it
        connection = self._connections
        await self._take_what_was_on_its_way(subscription)
        self._hand_on_what_came(subscription, connection)

    def _hand_on_what_came(self, subscription: NatsSubscription, connection: int) -> None:
        """Unless the connection was lost again: then what comes waits for what that one lost, too."""
        if connection != self._connections or not self.is_connected:
            raise ConnectionError("the connection was lost again")
        subscription.sort_in(_sequence)

    async def _take_what_was_on_its_way(self, subscription: NatsSubscription) -> None:
        """What the server has delivered to us and we have not got, before anything newer.

        It would come again after the lease, behind what is newer. Of what other hosts hold we know nothing;
        where there are some nothing is done.
        """
        info = await self._look_at(subscription)
        if info is not None and info.delivered is not None:
            subscription.last = max(subscription.last, info.delivered.consumer_seq)
        if info is None or not subscription.is_alone or self._not_here(subscription, info) <= 0:
            return
        await self._ask_back(subscription, info)
        subscription.asked = 0
        await self._take_what_is_owed(subscription, min(self.lease_s, _MOST_WAITED_S))

    async def _take_what_is_owed(self, subscription: NatsSubscription, seconds: float) -> None:
        """Wait for what was delivered and is neither settled nor here; it comes before all new.

        Given up when none of it has come at as many looks as fit into so long: it is with another host. Looks
        are counted, not seconds: while a plugin blocks the event loop nothing comes, wherever it is.
        """
        await subscription.ask_again()
        looks, fewest = 0, inf
        while (info := await self._look_at(subscription)) is not None:
            missing = self._not_here(subscription, info)
            looks = 0 if missing < fewest else looks + 1
            fewest = min(fewest, missing)
            if missing <= 0 or looks * _AGAIN_S >= seconds:
                return
            await asyncio.sleep(_AGAIN_S)
            await subscription.top_up()  # a request is for so many bytes, and these may be few messages

    async def _look_at(self, subscription: NatsSubscription) -> ConsumerInfo | None:
        """What the server says of its consumer; None where it is gone, which is seen to elsewhere."""
        try:
            found: ConsumerInfo = await self._jetstream.consumer_info(self._stream, subscription.name)
        except NotFoundError:
            return None
        return found if found.created == subscription.created else None

    def _not_here(self, subscription: NatsSubscription, info: ConsumerInfo) -> int:
        """How many it has delivered that are neither settled nor here."""
        last = info.delivered.stream_seq if info.delivered is not None else 0
        # What is here may have been delivered after the server said this.
        here = sum(isinstance(sequence, int) and sequence <= last for sequence in subscription._held)
        return (info.num_ack_pending or 0) - here

    async def _ask_back(self, subscription: NatsSubscription, info: ConsumerInfo) -> None:
        """Have everything that is not settled, and not here, delivered anew, the oldest first."""
        assert info.delivered is not None
        assert info.ack_floor is not None
        first, last = info.ack_floor.stream_seq + 1, info.delivered.stream_seq
        if last - first > _MOST_ASKED_BACK:
            return  # it comes after the lease
        subject = subscription.answer_to("%d", info.delivered.consumer_seq)
        for sequence in range(first, last + 1):
            if sequence not in subscription._held:
                known = sequence in subscription._settled
                await self._client.publish(subject % sequence, b"+ACK" if known else b"-NAK")
        # They are handled one after the other: the answer to this one says that all were.
        await self._client.request(subject % last, b"+WPI", timeout=_API_S)

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
            await self._make_consumers_of_others()
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
        limits = (config.max_bytes, config.max_msgs, config.max_msgs_per_subject)
        if config.discard != DiscardPolicy.NEW and any(limit is not None and limit > 0 for limit in limits):
            raise TransportError(
                f"the stream {self._stream} drops the oldest messages when it is full, settled or not",
                where=self.endpoint.public,
                why="it has a limit, and its discard policy is old",
                fix=f"set it to new: nats stream edit {self._stream} --discard=new",
            )
        if config.max_msg_size is not None and config.max_msg_size > 0:
            self.payload_limit = min(self.payload_limit, config.max_msg_size)

    async def _make_consumers_of_others(self) -> None:
        """A new stream keeps what somebody has a consumer for; the hosts that had one may come later."""
        for name, patterns in self._queues_of_others().items():
            with contextlib.suppress(APIError):  # then its own host is told
                await self._make_consumer(
                    self._new_consumer(name, DeliverPolicy.ALL), self._filters(patterns)
                )

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        subscription.transport = self
        connection = self._connections
        try:
            await self._ensure_stream()
            consumer = await self._ensure_consumer(subscription)
            subscription.created = consumer.created
            subscription.last = (consumer.delivered and consumer.delivered.consumer_seq) or 0
            subscription.reply = f"$JS.ACK.{self._stream}.{subscription.name}.1.0.0.0.0"
            if subscription.listener is None:
                await self._hear(subscription)
            if consumer.num_ack_pending:  # of a host that has stopped or died, or other hosts have it
                subscription.put_arrivals_aside()
                await self._agree_with_peers(subscription)
                if subscription.is_alone:
                    await self._take_what_was_on_its_way(subscription)
                else:
                    await self._take_what_is_owed(subscription, _HANDED_BACK_S)
            # Also where there is nothing to take: an attempt before this one may have been cut short.
            self._hand_on_what_came(subscription, connection)
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
        wanted = self._filters(self._patterns_of(subscription))
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
            if sorted(_filters_of(config)) == sorted(wanted):
                return found
            if not self.may_create:
                return found  # the operator's filter; what we do not want is passed over
            wanted = self._filters(await self._agree_with_peers(subscription))
        else:
            # A consumer that vanished begins with the oldest: rather twice than never.
            config = self._new_consumer(
                name, DeliverPolicy.ALL if subscription.was_lost else DeliverPolicy.NEW
            )
        return await self._make_consumer(config, wanted)

    def _new_consumer(self, name: str, begins: DeliverPolicy) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=name,
            deliver_policy=begins,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self.lease_s,
            max_ack_pending=_ACK_PENDING,
        )

    async def _make_consumer(self, config: ConsumerConfig, wanted: list[str]) -> ConsumerInfo:
        """Make it, or change it, so that it is given these subjects."""
        one = len(wanted) == 1
        made: ConsumerInfo = await self._jetstream.add_consumer(
            self._stream,
            config.evolve(filter_subject=wanted[0] if one else None, filter_subjects=None if one else wanted),
        )
        return made

    async def _collect_again(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, NatsSubscription)
        found = await self._look_at(subscription)
        if found is None or found.config is None:
            return
        own = self._filters([pattern.text for pattern in subscription.patterns])
        if not _cover(_filters_of(found.config), own):
            await self._make_consumer(found.config, self._filters(self._patterns_of(subscription)))

    def _filters(self, patterns: Sequence[str]) -> list[str]:
        version = self._client.connected_server_version
        many = (version.major, version.minor) >= _MANY_FILTERS_SINCE
        covers = filters_for([TopicPattern(pattern) for pattern in patterns], many=many)
        return [f"{self.prefix}.{cover}" for cover in covers]

    async def _hear(self, subscription: NatsSubscription) -> None:
        # The same on every connection: what was asked for on an old one may still come.
        subscription.inbox = subscription.inbox or self._client.new_inbox() + "."
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
        most = max(self._pull_bytes, 2 * self.payload_limit)
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


def _sequence(delivery: BrokerDelivery) -> Any:
    """Its number in the stream."""
    return delivery.key


def _was_asked_who_we_are(client: Client) -> bool:
    """Whether it came so far that the server asked.

    The server says that it refuses, and hangs up; where the hanging up is seen first, asyncio's streams give
    out nothing of what was said before.
    """
    return bool(client._server_info.get("auth_required"))


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
