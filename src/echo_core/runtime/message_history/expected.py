"""For whom messages were, though nothing is recorded of what they did with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from echo_core.runtime.message_history.records import Accepted
from echo_core.runtime.message_history.store import Host, Subscribed
from echo_core.topics import TopicSet
from echo_core.transports.sqlite.leases import is_alive


class Expected:
    """Knows who subscribed to what, and which hosts live."""

    def __init__(self, file: Path, subscriptions: Sequence[Subscribed], hosts: Mapping[int, Host]) -> None:
        self._file = file
        self._hosts = hosts
        self._stays = {number: TopicSet(host.stays) for number, host in hosts.items()}
        self._subscriptions = [(each, TopicSet(each.patterns)) for each in subscriptions]

    def of(self, message: Accepted, host: int) -> list[str]:
        """The plugins that subscribed to its topic when it was made."""
        if message.only:
            return [message.only]
        made, stays = message.timestamp, self._is_of_its_host(message, host)
        newest: dict[str, tuple[Subscribed, TopicSet]] = {}
        for each, topics in self._subscriptions:
            if each.since_ns <= made and (each.host == host or not stays):
                newest[each.plugin] = each, topics
        return [
            plugin
            for plugin, (each, topics) in newest.items()
            # Elsewhere than in the host messages are collected for a plugin that is not there.
            if message.topic in topics and (not stays or each.until_ns is None or made < each.until_ns)
        ]

    def state(self, message: Accepted | None, host: int, gaps: int) -> str:
        """What is to be said of a message that has not ended."""
        own = self._hosts.get(host)
        if gaps or own is None or message is None:
            return "unknown"
        has_ended = own.ended_ns is not None or not is_alive(self._file, host)
        return "unknown" if has_ended and self._is_of_its_host(message, host) else "waiting"

    def _is_of_its_host(self, message: Accepted, host: int) -> bool:
        """Whether it stays in the host, and ends with it."""
        return host not in self._stays or message.topic in self._stays[host]
