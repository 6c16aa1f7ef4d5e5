"""What is asked of Kafka beside messages: what there is, what is made, and how a client gets in."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.structs import OffsetAndMetadata

from echo_core.errors import SettingsError, TransportError
from echo_core.transports.broker.recovery import end_task
from echo_core.transports.endpoint import Endpoint

ANSWER_S: Final = 5.0
"""A request that was not answered for so long is given up, and its connection."""
_STOP_S: Final = 1.0
_LARGEST: Final = 1_048_588
"""What Kafka takes in one batch unless max.message.bytes says otherwise."""
_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_OF_CLIENTS_ONLY: Final = ("bootstrap_servers", "metadata_max_age_ms")
"""Of `client_options`, what a connection by itself does not know."""
_NEWEST: Final = -1
"""In place of a time: the offset after the last record."""
_REPLICAS: Final = 3
"""Of a topic that is made, where there are so many brokers."""

_stopping: Final[set[asyncio.Task[None]]] = set()
"""Those that are being stopped; the event loop by itself would not keep them."""

# It reports as errors what is told and mended here.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def client_options(endpoint: Endpoint) -> dict[str, Any]:
    """The arguments of every aiokafka client: where the brokers are, and who we are."""
    mechanism = endpoint.chosen("sasl", "PLAIN", *_MECHANISMS)
    secured = "SSL" if endpoint.tls else "PLAINTEXT"
    options: dict[str, Any] = {
        "bootstrap_servers": [
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in endpoint.hosts
        ],
        "client_id": "echo-core",
        "security_protocol": f"SASL_{secured}" if endpoint.user else secured,
        "ssl_context": endpoint.tls,
        "metadata_max_age_ms": 60_000,
    }
    if endpoint.user:
        options |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": endpoint.user,
            "sasl_plain_password": endpoint.password.reveal(),
        }
    elif "sasl" in endpoint.options:
        raise SettingsError(
            "the option 'sasl' needs a user", where="host.transport", fix="name user and password"
        )
    return options


async def stop(*clients: Any) -> None:
    """Stop aiokafka's clients, whatever state their connections are in; nothing is raised.

    They are stopped also where the caller is cancelled: nobody else knows of them then.
    """
    stopping = [asyncio.create_task(_stop(client)) for client in clients if client is not None]
    _stopping.update(stopping)
    for task in stopping:
        task.add_done_callback(_stopping.discard)
    await asyncio.shield(asyncio.gather(*stopping))


async def _stop(client: Any) -> None:
    ending = asyncio.ensure_future(client.close() if hasattr(client, "close") else client.stop())
    await asyncio.wait([ending], timeout=_STOP_S)
    await end_task(ending)


class Administration:
    """Looks at topics and groups, and makes topics."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._started: Any = None

    async def start(self) -> None:
        """Connect. Raises `KafkaError`, OSError or TimeoutError."""
        self._started = AIOKafkaAdminClient(request_timeout_ms=int(ANSWER_S * 1_000), **self._options)
        try:
            await self._started.start()
        except KafkaConnectionError:
            await self._knock()
            raise

    async def _knock(self) -> None:
        """Connect by hand, and raise what happens: the client does not say why it could not."""
        (host, port, _), *_ = self._started._client.hosts
        told = {name: value for name, value in self._options.items() if name not in _OF_CLIENTS_ONLY}
        (await create_conn(host, port, request_timeout_ms=int(ANSWER_S * 1_000), **told)).close()

    async def stop(self) -> None:
        """Let go."""
        started, self._started = self._started, None
        await stop(started)

    @property
    def _admin(self) -> Any:
        if self._started is None:
            raise ConnectionError("there is no connection")
        return self._started

    async def leaders(self, names: Iterable[str]) -> dict[str, dict[int, int]]:
        """The brokers that lead the partitions of these topics; a topic that is not there is left out.

        Raises `KafkaError` where that cannot be known.
        """
        # Not `describe_topics`: that would have the broker make what is missing.
        request = MetadataRequest(list(names), allow_auto_topic_creation=False)
        answer = await self._admin._send_request(request)
        found: dict[str, dict[int, int]] = {}
        for topic in answer.to_object()["topics"]:
            error = for_code(topic["error_code"])
            if topic["error_code"] == 0:
                found[topic["topic"]] = {part["partition"]: part["leader"] for part in topic["partitions"]}
            elif error is not UnknownTopicOrPartitionError:
                raise error(topic["topic"])
        return found

    async def make(self, name: str, partitions: int, replicas: int, configs: Mapping[str, str]) -> None:
        """Make a topic; one that is there by now is left as it is. With 0 replicas, as many as is wise.

        Raises `TransportError` where the broker refuses, `KafkaError` where it cannot do so at the moment.
        """
        if not replicas:
            replicas = min(_REPLICAS, max(1, len(self._admin._client.cluster.brokers())))
        answer = await self._admin.create_topics(
            [NewTopic(name, partitions, replicas, topic_configs=dict(configs))]
        )
        _, code, *why = answer.topic_errors[0]
        error = for_code(code)
        if error.retriable:
            raise error(name)
        if code and error is not TopicAlreadyExistsError:
            raise TransportError(
                f"Kafka refuses to make the topic {name}",
                why=(why[0] if why and why[0] else "") or error.__name__,
                fix="make it, or mend host.transport",
            )

    async def largest(self, topic: str) -> int:
        """Bytes that a batch of the topic may have; Kafka's usual limit where it may not be asked."""
        try:
            answers = await self._admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
            for resource in answers[0].resources:
                for entry in resource[4]:
                    if entry[0] == "max.message.bytes" and entry[1]:
                        return int(entry[1])
        except KafkaError:
            pass
        return _LARGEST

    async def ends(self, topic: str, leaders: Mapping[int, int]) -> dict[int, int]:
        """The offsets after the last records of a topic's partitions; raises `KafkaError`.

        Not asked of a consumer: its connection answers nothing else while it waits for records.
        """
        of: dict[int, list[int]] = {}
        for partition, leader in leaders.items():
            of.setdefault(leader, []).append(partition)
        found: dict[int, int] = {}
        for leader, partitions in of.items():
            request = OffsetRequest(
                -1, READ_UNCOMMITTED, [(topic, [(number, _NEWEST) for number in partitions])]
            )
            answer = await self._admin._send_request(request, leader)
            for _, answers in answer.topics:
                for number, code, _, offset in answers:
                    if code:
                        raise for_code(code)(topic)
                    found[number] = offset
        return found

    async def committed(
        self, group: str, topic: str, partitions: Iterable[int]
    ) -> dict[int, OffsetAndMetadata]:
        """What the group has committed of these partitions; what it never did is left out."""
        wanted = [TopicPartition(topic, number) for number in partitions]
        found = await self._admin.list_consumer_group_offsets(group, partitions=wanted)
        return {tp.partition: committed for tp, committed in found.items() if committed.offset >= 0}

    async def delete_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Let Kafka free the room of what lies before these offsets, by partition."""
        await self._admin.delete_records(
            {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in offsets.items()}
        )
