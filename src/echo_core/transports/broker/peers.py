"""What other hosts want from the queues that they share with this one.

Hosts may run different versions of a plugin, which subscribe to different topics; their queue is one. Each
says every now and then what it wants, so that a host that is given what is not for its version knows whether
it is for another one.
"""

from collections.abc import Iterable, Mapping
from math import inf
from time import monotonic
from typing import Final

import msgspec

from echo_core.errors import TopicError
from echo_core.topics import TopicPattern, TopicSet

SAY_S: Final = 2.0
"""Time between two announcements of a host."""
PATIENCE: Final = 20
"""So many looks at the queues, 5 s, pass before a topic is believed to be wanted by nobody: whoever wants it
has said so twice by then. Looks and not seconds, for who is held up does not hear."""
_SILENT_S: Final = 60.0
"""One that has said no good-bye may come back, and want what it wanted, for so long."""
_TOPICS: Final = 10_000
"""That are waited for at the same time; those of others wait for their turn."""
_ASKED: Final = ""
"""In the place of a queue: how often a host has asked the others to say what they want."""


class _Wants:
    """What a host wants of a queue."""

    def __init__(self, patterns: list[str]) -> None:
        self.patterns = patterns
        self.topics = TopicSet([TopicPattern(pattern) for pattern in patterns])


class Peers:
    """The other hosts, as far as they share queues."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, dict[str, _Wants]]] = {}
        self._said: dict[str, bytes] = {}
        self._looks = 0
        self._unwanted: dict[tuple[str, str], tuple[int, int]] = {}
        """Topics of queues that nobody seems to want: the looks before they came first, and last."""

    def hear(self, host: str, document: bytes, ago: float = 0.0) -> bool:
        """A host has said what it wants, so many seconds ago: patterns by queue.

        Returns whether it is to be answered: it is new, it asks, or it wants something else than before.
        """
        is_news = self._said.get(host) != document
        try:
            said = msgspec.json.decode(document, type=dict[str, list[str]])
            wants = {name: _Wants(patterns) for name, patterns in said.items()}
        except (msgspec.DecodeError, TopicError):
            return False  # somebody else's; ours are well-formed
        self._said[host] = document
        self._heard[host] = (monotonic() - ago, wants)
        return is_news and bool(wants)

    def _of(self, name: str, since: float = -inf) -> list[_Wants]:
        since = max(since, monotonic() - _SILENT_S)
        return [wants[name] for heard, wants in self._heard.values() if heard > since and name in wants]

    def share(self, name: str, since: float = -inf) -> bool:
        """Whether another host takes from the queue, by what was said after `since` (monotonic)."""
        return bool(self._of(name, since))

    def want(self, name: str, topic: str) -> bool:
        """Whether one of those who share the queue wants the topic."""
        return any(topic in wants.topics for wants in self._of(name))

    def look(self) -> None:
        """Hosts were heard since this was called last."""
        self._looks += 1
        if self._looks % PATIENCE == 0:
            self._unwanted = {
                topic: came for topic, came in self._unwanted.items() if self._looks - came[1] <= PATIENCE
            }

    def none_heard(self) -> None:
        """The connection is lost: what is wanted may be said from now on, and not be heard."""
        self._unwanted.clear()

    def is_surplus(self, name: str, topic: str) -> bool:
        """Whether a topic that came from the queue is wanted by nobody, and nobody can be about to say so."""
        if self.want(name, topic):
            return False
        came = self._unwanted.get((name, topic))
        if came is None and len(self._unwanted) >= _TOPICS:
            return False
        first = self._looks if came is None or self._looks - came[1] > PATIENCE else came[0]
        self._unwanted[name, topic] = first, self._looks
        return self._looks - first >= PATIENCE

    def decline(self, name: str, topic: str) -> bool:
        """Whether one of those who share the queue does not want the topic."""
        return any(topic not in wants.topics for wants in self._of(name))

    def want_more(self, name: str, patterns: Iterable[str]) -> bool:
        """Whether one of those who share the queue wants what these patterns do not say."""
        return not set(self.patterns(name)) <= set(patterns)

    def patterns(self, name: str) -> list[str]:
        """All that they want of the queue, each once."""
        return list(dict.fromkeys(pattern for wants in self._of(name) for pattern in wants.patterns))

    def queues(self) -> dict[str, list[str]]:
        """All that they take from, and the patterns of each."""
        names = {name: self.patterns(name) for _, wants in self._heard.values() for name in wants}
        return {name: patterns for name, patterns in names.items() if patterns and name != _ASKED}


def document_of(wants: Mapping[str, list[str]], asked: int = 0) -> bytes:
    """What `Peers.hear` reads; `asked` is how often this host has asked the others to answer."""
    return msgspec.json.encode({_ASKED: [str(asked)], **wants} if wants else {})
