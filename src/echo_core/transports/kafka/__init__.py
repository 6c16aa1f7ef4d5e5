"""Kafka: `kafka://` and `kafka+tls://`, with aiokafka (the extra `echo-core[kafka]`).

Every subscription name has a topic of Kafka's own, its queue, and a consumer group on it; hosts that share
the name are members of the group, and share the queue's partitions. Which patterns a subscription wants is
written in a compacted topic, and a publication goes to the queues of all that want it.

Options: `prefix` (begins every name; default echo), `create=no` (refuse when a topic is missing, rather than
make it), `lease` (seconds after which a silent host is given up; default 8), `partitions` and `replicas` (of
topics that are made), `ordering_key` (the place in a message whose value keeps messages in order over
partitions), `sasl` (PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, where there is a user).

`transport` speaks with the broker, `outlet` writes to a queue and `reading` reads one; `registry` knows who
wants what, `progress` what of a partition is settled, `client` asks for what is no message.
"""

from echo_core.transports.kafka.transport import OPTIONS, open_kafka

__all__ = ["OPTIONS", "open_kafka"]
