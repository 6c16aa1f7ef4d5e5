"""The order in which plugins stop: who publishes before who is fed by it."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from echo_core.runtime.slot import PluginSlot
from echo_core.topics import TopicPattern


def upstream_first(slots: Sequence[PluginSlot]) -> list[PluginSlot]:
    """The slots, publishers before their subscribers; where plugins feed each other, as they came."""
    feeders = {
        slot: [other for other in slots if other is not slot and _feeds(other, slot)] for slot in slots
    }
    ordered: list[PluginSlot] = []
    while len(ordered) < len(slots):
        remaining = [slot for slot in slots if slot not in ordered]
        ordered.extend(_acyclic(remaining, feeders))
    return ordered


def _acyclic(
    slots: Sequence[PluginSlot], feeders: Mapping[PluginSlot, Sequence[PluginSlot]]
) -> list[PluginSlot]:
    """An order of the slots; where they form a cycle, only the first of them that is in one."""
    sorter = TopologicalSorter({slot: [f for f in feeders[slot] if f in slots] for slot in slots})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        in_cycle = error.args[1]
        return [next(slot for slot in slots if slot in in_cycle)]


def _feeds(publisher: PluginSlot, subscriber: PluginSlot) -> bool:
    if publisher.manifest is None or subscriber.manifest is None:
        return False
    return any(
        TopicPattern(publication).overlaps(TopicPattern(subscription))
        for publication in publisher.manifest.publications
        for subscription in subscriber.manifest.subscriptions
    )
