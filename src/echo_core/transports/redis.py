"""Redis Streams: `redis://` and `redis+tls://`, with redis-py (the extra `echo-core[redis]`).

Every subscription name has a stream of its own with one consumer group; hosts that share it are consumers of
the group. Which patterns a subscription wants is written into a hash, and a publication is added to the
streams of all that want it by one script, so by all or by none. What is settled is deleted.

Options: `prefix` (begins every key; default echo), `create=no` (refuse when a subscription is missing, rather
than make it), `lease` (seconds after which what a silent host holds goes to others; default 8). The path is
the number of the database. All keys carry the hash tag {prefix}, so that they share a slot of a cluster.

How long what was accepted survives Redis itself is said by its `appendonly` and `appendfsync`.
"""

import asyncio
import contextlib
import hashlib
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import monotonic, time
from typing import Any, ClassVar, Final

import msgspec
from redis.asyncio import Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from echo_core.errors import SettingsError, TransportError
from echo_core.topics import TopicPattern, TopicTrie
from echo_core.transports.base import Capabilities
from echo_core.transports.broker.delivery import BrokerDelivery
from echo_core.transports.broker.publication import NOT_SENT, Publication
from echo_core.transports.broker.recovery import end_task, plain
from echo_core.transports.broker.subscription import Backlog, BrokerSubscription
from echo_core.transports.broker.transport import OPTIONS as COMMON_OPTIONS
from echo_core.transports.broker.transport import BrokerTransport
from echo_core.transports.endpoint import Endpoint, parse_endpoint

PORT: Final = 6379
OPTIONS: Final = COMMON_OPTIONS
_GROUP: Final = "echo"
_ANSWER_S: Final = 5.0
_BLOCK_MS: Final = 5_000
_AT_A_TIME: Final = 128
"""Deliveries read, and publications written, with one command."""
_BYTES_AT_A_TIME: Final = 4 * 2**20
_LARGEST: Final = 512 * 2**20 - 4_096
"""What proto-max-bulk-len allows unless configured, less what is written around a message."""
_ANNOUNCED_MS: Final = 60_000
"""How long the last word of a host is kept."""
_NO_ROOM: Final = "'maxmemory'"
"""In what Redis says while it has no memory for more."""
_GONE: Final = ("NOGROUP", "no longer exists", "WRONGTYPE")
"""In what Redis says where there is no queue to read from."""
_UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

# KEYS: version, stream...; ARGV: the version that is known, then for each message topic, body, and the
# number and the places in KEYS of its streams. Answers 0 where other subscriptions came meanwhile.
_PUBLISH: Final = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
local at = 2
while at <= #ARGV do
    local topic, body, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
    for place = at + 3, at + 2 + count do
        redis.call('XADD', KEYS[tonumber(ARGV[place])], '*', 't', topic, 'a', '1', 'm', body)
    end
    at = at + 3 + count
end
return 1
"""
_PUBLISH_SHA: Final = hashlib.sha1(_PUBLISH.encode(), usedforsecurity=False).hexdigest()
"""The name under which Redis knows a script that it was given before."""
# KEYS: subscriptions, version, stream; ARGV: name, patterns, group, '1' to create.
_SUBSCRIBE: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known and ARGV[4] ~= '1' then return 0 end
if known ~= ARGV[2] and ARGV[4] == '1' then
    redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
    redis.call('INCR', KEYS[2])
end
if redis.call('EXISTS', KEYS[3]) == 0 or #redis.call('XINFO', 'GROUPS', KEYS[3]) == 0 then
    redis.call('XGROUP', 'CREATE', KEYS[3], ARGV[3], '0', 'MKSTREAM')
end
return 1
"""
# KEYS: stream, delayed; ARGV: group, consumer, id, attempt, due in ms or 0, a unique word, idle in ms.
# Hands a delivery back that is still this consumer's: into the set of what waits for its delay, or, without
# one, to whoever looks next for what silent hosts hold; so it keeps its place in the stream.
_RETURN: Final = """
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1)
if #held == 0 or held[1][2] ~= ARGV[2] then return 0 end
local found, value = redis.call('XRANGE', KEYS[1], ARGV[3], ARGV[3]), {a = '1'}
for at = 1, #found > 0 and #found[1][2] or 0, 2 do value[found[1][2][at]] = found[1][2][at + 1] end
if #found > 0 and ARGV[5] == '0' then
    local tries = tonumber(ARGV[4]) - (tonumber(value.a) or 1)
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3],
        'IDLE', ARGV[7], 'RETRYCOUNT', math.max(1, tries), 'JUSTID')
    return 1
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
if #found > 0 then
    redis.call('ZADD', KEYS[2], ARGV[5], cmsgpack.pack({ARGV[6], value.t, ARGV[4], value.m}))
end
return 1
"""
_NOBODYS_MS: Final = 24 * 3_600 * 1_000
"""Idle for so long is what was handed back: longer than any lease."""
# KEYS: stream, delayed; ARGV: now in ms. Puts what is due back into the stream.
_DUE: Final = """
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 100)
for _, member in ipairs(due) do
    local it = cmsgpack.unpack(member)
    redis.call('XADD', KEYS[1], '*', 't', it[2], 'a', it[3], 'm', it[4])
    redis.call('ZREM', KEYS[2], member)
end
return #due
"""


class _TlsConnection(SSLConnection):
    """One with the endpoint's own context, for which `ca` is in place of the system's authorities.

    In redis-py's it is beside them, and before 6.0 the name of the host is not looked at.
    """

    def __init__(self, *, context: ssl.SSLContext, **more: Any) -> None:
        super().__init__(**more)
        self.ssl_context.context = context


class RedisSubscription(BrokerSubscription):
    """A stream, and the task that reads it."""

    def __init__(self, transport: "RedisTransport", name: str, *more: Any) -> None:
        super().__init__(transport, name, *more)
        self.key: Final = transport.key("queue", name)
        """Of the stream."""
        self.delayed_key: Final = transport.key("delayed", name)
        """Of the sorted set of what waits for its delay."""
        self.wanted_more = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None
        self.client: Redis | None = None
        self.client_id = 0
        self.address = ""
        """Of the client, at Redis."""
        self.is_stopping = False


class RedisTransport(BrokerTransport):
    """Messages in streams of a Redis server."""

    capabilities: ClassVar = Capabilities(
        durable=True,
        shared=True,
        bounded_by_publisher=True,
        delayed_retry=True,
        slows_by_source=True,
        ordered=True,
        presence=True,
        accepted="Redis has it, and on its disk as soon as its `appendfsync` says.",
        settled="Redis is about to be told. If it never hears, this host knows when the message comes again.",
    )
    broker = "Redis"
    client_errors = (RedisError,)
    subscription_type = RedisSubscription
    payload_limit = _LARGEST
    resend_s = float("inf")  # an answer comes, or the connection is given up

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        if len(endpoint.hosts) != 1:
            raise SettingsError(
                "redis:// takes one server",
                where="host.transport",
                fix="name one, or an address in front of all",
            )
        if endpoint.path and not endpoint.path.isdigit():
            raise SettingsError(
                f"{endpoint.path!r} is no number of a database", where="host.transport", fix="redis://host/0"
            )
        self._consumer = secrets.token_hex(8)
        self._client = self._new_client()
        self._version = b"0"
        self._wants: TopicTrie[str] = TopicTrie()
        self._known: dict[str, list[str]] = {}
        """The patterns of all subscriptions."""
        self._publications: list[Publication] = []
        self._settled: dict[RedisSubscription, list[bytes]] = {}
        self._work = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    def key(self, *words: str) -> str:
        """The name of something in Redis."""
        return ":".join((f"{{{self.prefix}}}", *words))

    # -- connection -----------------------------------------------------------------------------------

    def _new_client(self, *, reads: bool = False) -> Redis:
        endpoint = self.endpoint
        host, port = endpoint.hosts[0]
        client = Redis(
            host=host,
            port=port,
            db=int(endpoint.path or 0),
            username=endpoint.user or None,
            password=endpoint.password.reveal() or None,
            socket_timeout=None if reads else _ANSWER_S,
            socket_connect_timeout=_ANSWER_S,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="echo-core",
            single_connection_client=reads,
            ssl=endpoint.tls is not None,
        )
        if endpoint.tls is not None:
            client.connection_pool.connection_class = _TlsConnection
            client.connection_pool.connection_kwargs["context"] = endpoint.tls
        return client

    async def _connect(self) -> None:
        await end_task(self._writer)
        self._writer = None
        self._publications.clear()  # they are in the outbox, and sent anew in their order
        await self._close_client(self._client)
        self._client = self._new_client()
        # Nothing is removed; but a replica, or a server that cannot write to its disk, says so.
        await self._client.srem(self.key("hosts"), "")
        await self._read_registry()
        self._writer = asyncio.create_task(self._write(), name="redis writer")

    def _advice(self, error: Exception) -> str:
        if isinstance(error, ReadOnlyError):
            return "name the primary in host.transport, or an address that leads to it"
        refused = isinstance(error, AuthenticationError | ResponseError)
        return "mend user and password" if refused else super()._advice(error)

    async def _close_client(self, client: Redis) -> None:
        with contextlib.suppress(RedisError, *_UNREACHABLE):
            async with asyncio.timeout(1):
                await client.aclose()

    async def _disconnect(self) -> None:
        if self._writer is not None:
            await self._flush()
        subscriptions = [one for one in self._ever if isinstance(one, RedisSubscription)]
        tasks = [self._writer, *(one.reader for one in subscriptions)]
        await asyncio.gather(*(end_task(task) for task in tasks))
        self._writer = None
        for subscription in subscriptions:
            if subscription.client is not None:
                await self._close_client(subscription.client)
        await self._close_client(self._client)

    async def _flush(self) -> None:
        """Have what waits for the next round written now."""
        with contextlib.suppress(RedisError, *_UNREACHABLE):
            async with asyncio.timeout(1):
                while self._settled and self.is_reachable:
                    self._work.set()
                    await asyncio.sleep(0.005)

    async def _call(self, command: Callable[[Redis], Awaitable[Any]]) -> Any:
        """Send a command of ours. OSError where it did not get through."""
        try:
            return await command(self._client)
        except (RedisError, *_UNREACHABLE) as error:
            if isinstance(error, ResponseError) and not isinstance(error, ReadOnlyError):
                raise
            self._cut_off(plain(error))
            raise ConnectionError(plain(error)) from None

    # -- subscriptions --------------------------------------------------------------------------------

    async def _read_registry(self) -> None:
        """Learn who wants what. Queues of others that Redis has lost are made: they may see it later."""
        await self._read_what_is_registered()
        others = self._queues_of_others() if self.may_create else {}
        lost = [name for name in others if name not in self._known]
        if lost:
            for name in lost:
                await self._register(self._client, name, others[name])
            await self._read_what_is_registered()

    async def _read_what_is_registered(self) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.get(self.key("version"))
        pipe.hgetall(self.key("subscriptions"))
        version, subscriptions = await pipe.execute()
        self._version = version or b"0"
        self._wants = TopicTrie()
        self._known = {
            name.decode(): msgspec.json.decode(patterns, type=list[str])
            for name, patterns in subscriptions.items()
        }
        for name, patterns in self._known.items():
            for pattern in patterns:
                self._wants.add(TopicPattern(pattern), name)

    async def _establish(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, RedisSubscription)
        wanted = self._patterns_of(subscription)
        if set(self._known.get(subscription.name, wanted)) != set(wanted):
            wanted = await self._agree_with_peers(subscription)
        try:
            if not await self._call(lambda client: self._register(client, subscription.name, wanted)):
                raise self._missing(f"the queue of {subscription.name}")
            await self._call(lambda client: self._read_registry())
            if await self._pending(subscription, "-", 1):
                asked = monotonic()
                await self._agree_with_peers(subscription)
                # What a host had that has died comes before anything newer. Who is alive has answered.
                if not self.peers.share(subscription.name, since=asked):
                    await self._take_all(subscription)
        except ResponseError as error:
            if _NO_ROOM in plain(error):
                raise ConnectionError(plain(error)) from None
            raise TransportError(
                f"Redis refuses the queue of {subscription.name}",
                where=self.endpoint.public,
                why=plain(error),
            ) from None
        await self._begin_reading(subscription)

    async def _register(self, client: Redis, name: str, patterns: list[str]) -> bool:
        """Have the queue there, and publishers know what it collects; False where it may not be made."""
        keys = [self.key("subscriptions"), self.key("version"), self.key("queue", name)]
        may_create = "1" if self.may_create else "0"
        arguments = (name, msgspec.json.encode(patterns), _GROUP, may_create)
        return bool(await client.eval(_SUBSCRIBE, len(keys), *keys, *arguments))

    async def _collect_again(self, subscription: BrokerSubscription) -> None:
        await self._call(lambda client: self._read_registry())
        if not subscription.collects(self._known.get(subscription.name, ())):
            wanted = self._patterns_of(subscription)
            await self._call(lambda client: self._register(client, subscription.name, wanted))
            await self._call(lambda client: self._read_registry())

    async def _resume(self, subscription: BrokerSubscription) -> None:
        assert isinstance(subscription, RedisSubscription)
        if subscription.name in self._known:
            await self._begin_reading(subscription)
        else:
            self._lost(subscription, "it is gone")

    async def _begin_reading(self, subscription: RedisSubscription) -> None:
        await self._stop_reading(subscription)
        subscription.is_stopping = False
        if subscription.client_id:
            await self._end_connection(subscription)
        try:
            await self._take_what_was_on_its_way(subscription)
            await self._take_what_is_nobodys(subscription)
        except ResponseError as error:
            self._lost(subscription, plain(error))
            return
        subscription.client = client = self._new_client(reads=True)
        try:
            subscription.client_id = await client.client_id()
            subscription.address = await self._address_of(client)
        except (RedisError, *_UNREACHABLE) as error:
            self._cut_off(plain(error))
            raise ConnectionError(plain(error)) from None
        subscription.reader = asyncio.create_task(
            self._read(subscription, client), name=f"{subscription.name} reader"
        )

    @staticmethod
    async def _address_of(client: Redis) -> str:
        """What Redis knows its end of the connection by; empty where it does not say."""
        try:
            return str((await client.client_info())["addr"])
        except (ResponseError, KeyError):
            return ""

    async def _end_connection(self, subscription: RedisSubscription) -> None:
        """Redis may not have seen that it was lost, and deliver what comes next into the void."""
        number, address = subscription.client_id, subscription.address
        ways = [
            _unblock(number)
        ]  # another client has the number when Redis was started again: no harm is done
        if address:
            ways.insert(0, lambda client: client.client_kill_filter(_id=str(number), addr=address))
        for way in ways:
            with contextlib.suppress(ResponseError):  # we may not, or it is gone
                await self._call(way)
                return

    async def _take_what_was_on_its_way(self, subscription: RedisSubscription) -> None:
        """What Redis has delivered to us and we have not got, before anything newer."""
        await self._take_all(subscription, consumername=self._consumer)

    async def _take_all(self, subscription: RedisSubscription, **of: Any) -> None:
        """What was delivered, is not settled, and is not here."""
        # One that is closing may hold messages of the same queue.
        held = {key for one in self._ever if one.name == subscription.name for key in one._held}
        after = "-"
        while True:
            page = await self._pending(subscription, after, _AT_A_TIME, **of)
            await self._take(subscription, [one for one in page if one["message_id"] not in held], 0)
            if len(page) < _AT_A_TIME:
                return
            after = "(" + page[-1]["message_id"].decode()

    async def _take_what_is_nobodys(self, subscription: RedisSubscription) -> None:
        """What silent hosts hold, and what was handed back."""
        room = subscription.prefetch - len(subscription._buffer)
        if room > 0:
            overdue = await self._pending(subscription, "-", room, idle=int(self.lease_s * 1_000))
            await self._take(subscription, overdue, int(self.lease_s * 1_000))

    async def _pending(
        self, subscription: RedisSubscription, start: str, count: int, **which: Any
    ) -> list[dict[str, Any]]:
        """What was delivered and is not settled; raises `ResponseError` where there is no queue."""
        found: list[dict[str, Any]] = await self._call(
            lambda client: client.xpending_range(subscription.key, _GROUP, start, "+", count, **which)
        )
        return found

    async def _take(
        self, subscription: RedisSubscription, pending: Sequence[Mapping[str, Any]], idle: int
    ) -> None:
        """Have what has been idle for so many ms delivered to us."""
        times = {one["message_id"]: one["times_delivered"] for one in pending}
        if times:
            for entry, fields in await self._claim(subscription, list(times), idle=idle):
                await self._arrived(subscription, entry, fields, times[entry] + 1)

    async def _stop_reading(self, subscription: RedisSubscription) -> None:
        reader, client = subscription.reader, subscription.client
        subscription.reader = subscription.client = None
        await end_task(reader)
        if client is not None:
            await self._close_client(client)

    async def _stop(self, subscription: BrokerSubscription) -> None:
        """End the reader between two answers, so that none is lost."""
        assert isinstance(subscription, RedisSubscription)
        reader = subscription.reader
        if reader is None:
            return
        subscription.is_stopping = True
        subscription.wanted_more.set()
        with contextlib.suppress(TimeoutError, ResponseError, ConnectionError):
            async with asyncio.timeout(1):
                while not reader.done():
                    if self.is_reachable:
                        await self._call(_unblock(subscription.client_id))
                    await asyncio.wait([reader], timeout=0.02)
        await self._stop_reading(subscription)

    async def _ask(self, subscription: BrokerSubscription, count: int) -> None:
        assert isinstance(subscription, RedisSubscription)
        subscription.wanted_more.set()

    async def _read(self, subscription: RedisSubscription, client: Redis) -> None:
        """Take from the stream as long as there is room."""
        streams: Any = {subscription.key: ">"}
        while not subscription.is_stopping:
            if subscription.asked <= 0:
                subscription.wanted_more.clear()
                await subscription.wanted_more.wait()
                continue
            try:
                answer: Any = await client.xreadgroup(
                    _GROUP,
                    self._consumer,
                    streams,
                    count=min(subscription.asked, _AT_A_TIME),
                    block=_BLOCK_MS,
                )
            except (RedisError, *_UNREACHABLE) as error:
                why = plain(error)
                if not any(gone in why for gone in _GONE):
                    self._cut_off(why)
                elif not subscription.is_stopping:
                    self._lost(subscription, why)
                return
            for _, entries in answer or ():
                for entry, fields in entries:
                    await self._arrived(subscription, entry, fields, 1)

    async def _arrived(
        self, subscription: RedisSubscription, entry: bytes, fields: dict[bytes, bytes] | None, delivered: int
    ) -> None:
        if not fields:  # deleted meanwhile: somebody has settled it
            self._settled.setdefault(subscription, []).append(entry)
            self._work.set()
            return
        # An entry that somebody else wrote has what it has.
        topic, body = fields.get(b"t", b"").decode(errors="replace"), fields.get(b"m", b"")
        attempt = int(fields.get(b"a", b"1")) + delivered - 1
        surplus = subscription.arrived(entry, topic, body, attempt, entry, max(0, subscription._behind - 1))
        if surplus is not None:
            await self._acknowledge(surplus)

    # -- writing --------------------------------------------------------------------------------------

    async def _send(self, publication: Publication) -> None:
        self._publications.append(publication)
        self._work.set()

    async def _acknowledge(self, delivery: BrokerDelivery) -> None:
        subscription = delivery.subscription
        assert isinstance(subscription, RedisSubscription)
        self._settled.setdefault(subscription, []).append(delivery.handle)
        self._work.set()

    async def _write(self) -> None:
        """Send what has gathered since the last answer, in one go, again and again."""
        while True:
            await self._work.wait()
            self._work.clear()
            if not self.is_reachable:
                await asyncio.sleep(0.01)
                self._work.set()
                continue
            publications = self._next_publications()
            settled, self._settled = self._settled, {}
            try:
                await self._write_round(publications, settled)
            except (RedisError, *_UNREACHABLE) as error:
                if isinstance(error, ResponseError) and not isinstance(
                    error, RedisConnectionError | ReadOnlyError
                ):
                    # With those that wait for the next round: it might be taken.
                    waiting, self._publications = self._publications, []
                    for publication in (*publications, *waiting):
                        self._refused(publication.number, plain(error))
                else:
                    self._cut_off(plain(error))  # what was settled is known here when it comes again
            if self._publications or self._settled:
                self._work.set()

    def _next_publications(self) -> list[Publication]:
        size = 0
        for count, publication in enumerate(self._publications):
            size += len(publication.payload)
            if count >= _AT_A_TIME or (count and size > _BYTES_AT_A_TIME):
                taken = self._publications[:count]
                del self._publications[:count]
                return taken
        taken, self._publications = self._publications, []
        return taken

    async def _write_round(
        self, publications: Sequence[Publication], settled: dict[RedisSubscription, list[bytes]]
    ) -> None:
        pipe = self._client.pipeline(transaction=False)
        for subscription, entries in settled.items():
            pipe.xack(subscription.key, _GROUP, *entries)
            pipe.xdel(subscription.key, *entries)
        sent = self._add_publications(pipe, publications) if publications else []
        if not pipe.command_stack:
            return
        answers = await pipe.execute(raise_on_error=False)
        if not sent:
            return
        answer = answers[-1]
        if isinstance(answer, NoScriptError):
            await self._client.script_load(_PUBLISH)
            self._publications[:0] = sent
        elif isinstance(answer, Exception):
            raise answer
        elif answer == 0:
            await self._read_registry()
            self._publications[:0] = sent
        else:
            for publication in sent:
                await self._accepted(publication.number)

    def _add_publications(self, pipe: Any, publications: Sequence[Publication]) -> list[Publication]:
        """Add the command; returns the publications in it."""
        keys: dict[str, int] = {self.key("version"): 1}
        arguments: list[Any] = [self._version]
        sent: list[Publication] = []
        for publication in publications:
            if publication.number not in self._outbox:
                continue  # sent twice, and answered
            if publication.publisher in self._held_back:
                publication.due = NOT_SENT  # it goes with what came before it
                continue
            lost = [one for one in publication.subscriptions if one.is_ready and one.name not in self._known]
            for subscription in lost:
                self._lost(subscription, "it is gone")
            if lost:
                self._refused(publication.number, "a queue for it is missing")
                continue
            wanting = self._wants.match(publication.topic)
            places = [keys.setdefault(self.key("queue", name), len(keys) + 1) for name in wanting]
            arguments += (publication.topic, publication.payload, len(places), *places)
            sent.append(publication)
        if sent:
            pipe.evalsha(_PUBLISH_SHA, len(keys), *keys, *arguments)
        return sent

    async def _hand_back(self, delivery: BrokerDelivery, delay: float) -> None:
        subscription = delivery.subscription
        assert isinstance(subscription, RedisSubscription)
        due = int((time() + delay) * 1_000) if delay > 0 else 0
        with contextlib.suppress(ConnectionError, ResponseError):  # it comes again after the lease then
            await self._call(
                lambda client: client.eval(
                    _RETURN,
                    2,
                    *(subscription.key, subscription.delayed_key),
                    *(_GROUP, self._consumer, delivery.handle, str(delivery.attempt + 1), str(due)),
                    *(secrets.token_hex(8), str(_NOBODYS_MS)),
                )
            )
        if due and not subscription._is_closing:
            asyncio.get_running_loop().call_later(delay + 0.005, self._when_due, subscription)

    async def _hand_on(self, delivery: BrokerDelivery, payload: bytes) -> None:
        delivery.attempt -= 1  # that was none
        await self._hand_back(delivery, 0.0)

    def _when_due(self, subscription: RedisSubscription) -> None:
        if self._open and self.is_reachable and not subscription._is_closing:
            self._begin(self._put_back_what_is_due(subscription))

    async def _put_back_what_is_due(self, subscription: RedisSubscription) -> None:
        with contextlib.suppress(ConnectionError, ResponseError):
            await self._call(
                lambda client: client.eval(
                    _DUE, 2, subscription.key, subscription.delayed_key, str(int(time() * 1_000))
                )
            )

    # -- looking after --------------------------------------------------------------------------------

    async def _keep_alive(self, deliveries: Sequence[BrokerDelivery]) -> None:
        by_subscription: dict[BrokerSubscription, list[bytes]] = {}
        for delivery in deliveries:
            by_subscription.setdefault(delivery.subscription, []).append(delivery.handle)
        for subscription, entries in by_subscription.items():
            assert isinstance(subscription, RedisSubscription)
            await self._claim(subscription, entries, justid=True)

    async def _claim(
        self, subscription: RedisSubscription, entries: list[Any], *, idle: int = 0, justid: bool = False
    ) -> Any:
        try:
            return await self._call(
                lambda client: client.xclaim(
                    subscription.key, _GROUP, self._consumer, idle, entries, justid=justid
                )
            )
        except ResponseError as error:
            self._lost(subscription, plain(error))
            return []

    async def _look_after(self, subscription: BrokerSubscription) -> None:
        """Take what silent hosts hold, and put back what has waited for its delay."""
        assert isinstance(subscription, RedisSubscription)
        if not subscription.is_ready:
            return
        await self._put_back_what_is_due(subscription)
        try:
            await self._take_what_is_nobodys(subscription)
        except ResponseError as error:
            self._lost(subscription, plain(error))

    async def _tick(self, now: float) -> None:
        for host, (document, ago) in (await self._told("want")).items():
            self._heard_wants(host, document, ago)
        await super()._tick(now)

    async def _say_what_is_wanted(self) -> None:
        await self._tell("want", self._id, self._wants_document())

    async def announce(self, host: str, document: bytes) -> None:
        try:
            await self._tell("host", host, document)
        except ResponseError as error:
            raise self._unusable(plain(error), "give it more memory, or the user more rights") from None

    async def announced(self) -> Mapping[str, bytes]:
        try:
            return {host: document for host, (document, _) in (await self._told("host")).items()}
        except ResponseError as error:
            raise self._unusable(plain(error), "give the user more rights") from None

    async def _tell(self, what: str, host: str, document: bytes) -> None:
        pipe = self._client.pipeline(transaction=True)
        pipe.set(self.key(what, host), document, px=_ANNOUNCED_MS)
        pipe.sadd(self.key(f"{what}s"), host)
        await self._call(lambda client: pipe.execute())

    async def _told(self, what: str) -> dict[str, tuple[bytes, float]]:
        """The newest that each host has said of it lately, and how many seconds ago."""
        hosts = sorted(await self._call(lambda client: client.smembers(self.key(f"{what}s"))))
        pipe = self._client.pipeline(transaction=False)
        for host in hosts:
            pipe.get(self.key(what, host.decode()))
            pipe.pttl(self.key(what, host.decode()))
        answers = await self._call(lambda client: pipe.execute()) if hosts else []
        found = list(zip(hosts, answers[::2], answers[1::2], strict=True))
        gone = [host for host, document, _ in found if document is None]
        if gone:
            with contextlib.suppress(ResponseError):  # where nothing can be written it is done later
                await self._call(lambda client: client.srem(self.key(f"{what}s"), *gone))
        return {
            host.decode(): (document, (_ANNOUNCED_MS - left) / 1_000)
            for host, document, left in found
            if document is not None
        }

    async def _backlog(self, subscription: BrokerSubscription) -> Backlog:
        assert isinstance(subscription, RedisSubscription)
        pipe = self._client.pipeline(transaction=True)
        pipe.xlen(subscription.key)
        pipe.xpending(subscription.key, _GROUP)
        pipe.zcard(subscription.delayed_key)
        try:
            length, pending, delayed = await self._call(lambda client: pipe.execute())
        except ResponseError as error:
            self._lost(subscription, plain(error))
            raise ConnectionError(plain(error)) from None
        held = pending["pending"]
        return Backlog(max(0, length - held), held + delayed)


def _unblock(client_id: int) -> Callable[[Redis], Awaitable[Any]]:
    return lambda client: client.client_unblock(client_id)


def open_redis(url: str) -> RedisTransport:
    """The transport that a redis:// URL names, not yet open; raises `SettingsError` for a wrong one."""
    return RedisTransport(parse_endpoint(url, port=PORT, options=OPTIONS))
