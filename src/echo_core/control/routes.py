"""The table of the control API: each line is a route, and from it come the application and its document."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal, NamedTuple

from echo_core.control.board import Board
from echo_core.control.documents import (
    Activate,
    Changed,
    DeadLetters,
    Deal,
    Health,
    Logs,
    Moves,
    States,
    Status,
    Upgrade,
    Upgraded,
)
from echo_core.runtime.dead_letters import DeadLetter
from echo_core.runtime.statistics import PluginSnapshot

MOST: Final = 1_000
"""The largest `limit`."""


class Query(NamedTuple):
    """A parameter in the query of an address."""

    name: str
    kind: type[int] | type[str]
    meaning: str
    default: int | str | None = None
    most: int | None = None


class Asked(NamedTuple):
    """A request, read and checked."""

    board: Board
    name: str
    """From the path, where it has one."""
    query: dict[str, Any]
    body: Any
    """Of the route's `takes`."""


class Route(NamedTuple):
    """One line of the table. `{name}` in a path is a plugin's name, `{number}` a number."""

    method: Literal["GET", "POST"]
    path: str
    summary: str
    answer: Callable[[Asked], Awaitable[Any]]
    gives: type
    takes: type | None = None
    query: Sequence[Query] = ()
    open: bool = False
    """Answers without a token: for probes."""


async def _live(asked: Asked) -> Health:
    return Health(ok=True)


async def _ready(asked: Asked) -> Health:
    return asked.board.readiness()


async def _status(asked: Asked) -> Status:
    return asked.board.status()


async def _states(asked: Asked) -> States:
    return States.all()


async def _history(asked: Asked) -> Moves:
    return asked.board.moves()


async def _plugin(asked: Asked) -> PluginSnapshot:
    return asked.board.plugin(asked.name)


async def _moves(asked: Asked) -> Moves:
    return asked.board.moves(asked.name)


async def _activate(asked: Asked) -> Changed:
    return await asked.board.activate(asked.name, asked.body)


async def _deactivate(asked: Asked) -> Changed:
    return await asked.board.deactivate(asked.name)


async def _pause(asked: Asked) -> Changed:
    return await asked.board.pause(asked.name)


async def _resume(asked: Asked) -> Changed:
    return await asked.board.resume(asked.name)


async def _upgrade(asked: Asked) -> Upgraded:
    return await asked.board.upgrade(asked.name, asked.body)


async def _upgraded(asked: Asked) -> Upgraded:
    return asked.board.upgraded(asked.name)


async def _deal(asked: Asked) -> Upgraded:
    return await asked.board.deal(asked.name, asked.body.percent)


async def _switch(asked: Asked) -> Upgraded:
    return await asked.board.switch(asked.name)


async def _promote(asked: Asked) -> Upgraded:
    return await asked.board.promote(asked.name)


async def _send_back(asked: Asked) -> Upgraded:
    return await asked.board.send_back(asked.name)


async def _roll_back(asked: Asked) -> Upgraded:
    return await asked.board.roll_back(asked.name)


async def _dead_letters(asked: Asked) -> DeadLetters:
    return await asked.board.dead_letters(asked.query["plugin"], asked.query["limit"])


async def _dead_letter(asked: Asked) -> DeadLetter:
    return await asked.board.dead_letter(int(asked.name))


async def _logs(asked: Asked) -> Logs:
    return asked.board.logs(asked.query["plugin"], asked.query["after"], asked.query["limit"])


_PLUGIN: Final = Query("plugin", str, "Only what concerns this plugin.")
_LIMIT: Final = Query("limit", int, "At most so many, the newest.", 100, most=MOST)
_AFTER: Final = Query("after", int, "Only records with a greater number.", 0)

ROUTES: Final = (
    Route("GET", "/health/live", "Whether the host answers at all.", _live, Health, open=True),
    Route("GET", "/health/ready", "Whether all plugins are well; 503 if not.", _ready, Health, open=True),
    Route("GET", "/v1/status", "The host and all its plugins.", _status, Status),
    Route("GET", "/v1/states", "The states, and the moves between them.", _states, States),
    Route("GET", "/v1/history", "What happened to the plugins.", _history, Moves),
    Route("GET", "/v1/plugins/{name}", "One plugin.", _plugin, PluginSnapshot),
    Route("GET", "/v1/plugins/{name}/history", "What happened to one plugin.", _moves, Moves),
    Route(
        "POST", "/v1/plugins/{name}/activate", "Run and enable a library.", _activate, Changed, takes=Activate
    ),
    Route("POST", "/v1/plugins/{name}/deactivate", "Disable, drain, take down.", _deactivate, Changed),
    Route("POST", "/v1/plugins/{name}/pause", "Let its messages wait.", _pause, Changed),
    Route("POST", "/v1/plugins/{name}/resume", "Go on after a pause.", _resume, Changed),
    Route("GET", "/v1/plugins/{name}/upgrade", "How an upgrade stands.", _upgraded, Upgraded),
    Route(
        "POST",
        "/v1/plugins/{name}/upgrade",
        "Let another version take the place of the one that runs.",
        _upgrade,
        Upgraded,
        takes=Upgrade,
    ),
    Route(
        "POST",
        "/v1/plugins/{name}/upgrade/deal",
        "Give a canary another part.",
        _deal,
        Upgraded,
        takes=Deal,
    ),
    Route("POST", "/v1/plugins/{name}/upgrade/switch", "Blue to green, or back.", _switch, Upgraded),
    Route("POST", "/v1/plugins/{name}/upgrade/promote", "The new version stays.", _promote, Upgraded),
    Route("POST", "/v1/plugins/{name}/upgrade/send-back", "The old version stays.", _send_back, Upgraded),
    Route("POST", "/v1/plugins/{name}/rollback", "Return to the version before.", _roll_back, Upgraded),
    Route(
        "GET",
        "/v1/dead-letters",
        "The newest dead letters.",
        _dead_letters,
        DeadLetters,
        query=(_PLUGIN, _LIMIT),
    ),
    Route("GET", "/v1/dead-letters/{number}", "One dead letter.", _dead_letter, DeadLetter),
    Route("GET", "/v1/logs", "What was logged lately.", _logs, Logs, query=(_PLUGIN, _AFTER, _LIMIT)),
)
FAILURES: Final = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    403: "The Host or the Origin is not this host's.",
    404: "There is no such plugin, library or letter.",
    409: "It could not be done; all is as before.",
    503: "The host is starting or stopping.",
}
"""Answers that any route may give; the body is a `Failure`."""
