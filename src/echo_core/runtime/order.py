"""The order in which plugins stop: who publishes before who is fed by it."""

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from echo_core.runtime.slot import PluginSlot
from echo_core.topics import TopicPattern, TopicTrie


def upstream_first(slots: Sequence[PluginSlot]) -> list[PluginSlot]:
    """The slots, publishers before their subscribers; where plugins feed each other, as they came."""
    feeders = _feeders(slots)
    ordered: dict[PluginSlot, None] = {}
    while len(ordered) < len(slots):
        remaining = [slot for slot in slots if slot not in ordered]
        ordered.update(dict.fromkeys(_acyclic(remaining, feeders)))
    return list(ordered)


def _acyclic(
    slots: Sequence[PluginSlot], feeders: Mapping[PluginSlot, Sequence[PluginSlot]]
) -> list[PluginSlot]:
    """An order of the slots; where they form a cycle, only the first of them that is in one."""
    among = set(slots)
    sorter = TopologicalSorter({slot: [f for f in feeders[slot] if f in among] for slot in slots})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        in_cycle = error.args[1]
        return [next(slot for slot in slots if slot in in_cycle)]


def _feeders(slots: Sequence[PluginSlot]) -> dict[PluginSlot, list[PluginSlot]]:
    """Whose publications each slot may get."""
    by_pattern: dict[TopicPattern, list[PluginSlot]] = {}
    for slot in slots:
        for text in slot.manifest.subscriptions if slot.manifest else ():
            by_pattern.setdefault(TopicPattern(text), []).append(slot)
    trie: TopicTrie[TopicPattern] = TopicTrie()
    for pattern in by_pattern:
        trie.add(pattern, pattern)
    feeders: dict[PluginSlot, list[PluginSlot]] = {slot: [] for slot in slots}
    for publisher in slots:
        for text in publisher.manifest.publications if publisher.manifest else ():
            for pattern in _heard_on(TopicPattern(text), trie, by_pattern):
                for slot in by_pattern[pattern]:
                    if slot is not publisher:
                        feeders[slot].append(publisher)
    return feeders


def _heard_on(
    publication: TopicPattern, trie: TopicTrie[TopicPattern], patterns: Iterable[TopicPattern]
) -> Iterable[TopicPattern]:
    """The patterns that mean a topic which is meant by `publication`, mostly a topic itself."""
    if "*" in publication.words or "#" in publication.words:
        return [pattern for pattern in patterns if pattern.overlaps(publication)]
    return trie.match(publication.text)
