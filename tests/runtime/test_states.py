"""The table of states, as properties over the table."""

from echo_core.runtime.states import NEXT, PluginState


def reachable(start: PluginState) -> set[PluginState]:
    found, pending = set(), [start]
    while pending:
        for state in NEXT[pending.pop()]:
            if state not in found:
                found.add(state)
                pending.append(state)
    return found


def test_every_state_has_a_line() -> None:
    assert set(NEXT) == set(PluginState)


def test_every_state_can_still_reach_stopped() -> None:
    for state in PluginState:
        assert state is PluginState.STOPPED or PluginState.STOPPED in reachable(state), state


def test_every_state_can_be_reached_from_loading() -> None:
    assert reachable(PluginState.LOADING) | {PluginState.LOADING} == set(PluginState)


def test_nothing_follows_stopped() -> None:
    assert not NEXT[PluginState.STOPPED]
