"""The table of the control API: each line is a route, and from it come the application and its document."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypeVar

from echo_core.control.board import Board
from echo_core.control.documents import (
    Activate,
    AskReplay,
    Changed,
    Cluster,
    Deal,
    Discard,
    Edit,
    Health,
    Logs,
    Moves,
    States,
    Status,
    Upgrade,
    Upgraded,
    Which,
)
from echo_core.runtime.dead_letters import ReplayJob
from echo_core.runtime.dead_letters.desk import (
    Discarded,
    Edited,
    Imported,
    Jobs,
    LetterPage,
    LetterWhole,
    Replay,
)
from echo_core.runtime.dead_letters.selection import selection
from echo_core.runtime.message_history.desk import ReplayMessage
from echo_core.runtime.message_history.documents import MessagePath, Newest
from echo_core.runtime.message_history.replay import Replayed
from echo_core.runtime.statistics import PluginSnapshot

P = ParamSpec("P")
R = TypeVar("R")

MOST: Final = 1_000
"""The largest `limit`."""
LARGEST_NUMBER: Final = 10**15 - 1
"""In a path or a query."""
LINES: Final = "application/jsonl"
"""The media type of `Lines`."""
_KIB: Final = 1024


class Lines:
    """A body that is no JSON but JSON Lines, in the format of `echo-core dlq export`."""


class Query(NamedTuple):
    """A parameter in the query of an address."""

    name: str
    kind: type[int] | type[str]
    meaning: str
    default: int | str | None = None
    most: int = LARGEST_NUMBER


class Asked(NamedTuple):
    """A request, read and checked."""

    board: Board
    name: str
    """From the path, where it has one, or the id there."""
    number: int
    """The same."""
    query: Mapping[str, Any]
    body: Any
    """Of the route's `takes`."""


class Route(NamedTuple):
    """One line of the table. In a path `{name}` is a plugin's, `{id}` a message's id, `{number}` a number."""

    method: Literal["GET", "POST"]
    path: str
    summary: str
    answer: Callable[[Asked], Any]
    """Gives the document, or something to await for it."""
    gives: type
    takes: type | None = None
    query: Sequence[Query] = ()
    open: bool = False
    """Answers without a token: for probes."""
    largest: int = 64 * _KIB
    """Bytes of a request's body."""


def _in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Awaitable[R]:
    """For what waits for the disk."""
    return asyncio.to_thread(function, *args, **kwargs)


def _change(
    path: str,
    summary: str,
    answer: Callable[[Asked], Awaitable[Any]],
    gives: type,
    takes: type | None = None,
) -> Route:
    """A change of a plugin: it waits until the host has started."""

    async def after_the_start(asked: Asked) -> Any:
        await asked.board.started()
        return await answer(asked)

    return Route("POST", path, summary, after_the_start, gives, takes)


def _page(asked: Asked) -> Awaitable[LetterPage]:
    said = {name: asked.query[name] for name in ("error", "topic", "id", "since", "until")}
    meant = selection(plugin=asked.query["plugin"], **said)
    limit, before = asked.query["limit"], asked.query["before"]
    return _in_thread(asked.board.letters.page, meant, limit=limit, before=before)


def _import(asked: Asked) -> Awaitable[Imported]:
    lines = asked.body.split("\n")
    return _in_thread(asked.board.letters.import_lines, lines, where="the body")


_PLUGIN: Final = Query("plugin", str, "Only what concerns this plugin.")
_LIMIT: Final = Query("limit", int, "At most so many, the newest.", 100, most=MOST)
_AFTER: Final = Query("after", int, "Only records with a greater number.", 0)
_LETTERS: Final = (
    _PLUGIN,
    Query("error", str, "Only those whose reason, or its kind, holds this text.", ""),
    Query("topic", str, "Only those that came on topics of this pattern.", ""),
    Query("id", str, "Only those with this id: the message's, its root's or its trace's.", ""),
    Query("since", str, "Only those kept since then: 2026-11-25T18:00, or 2h for two hours ago.", ""),
    Query("until", str, "Only those kept before then.", ""),
    Query("before", int, "Only those with smaller numbers: the next page."),
    _LIMIT,
)

_HEALTH: Final = (
    Route(
        "GET",
        "/health/live",
        "Whether the host answers at all.",
        lambda asked: asked.board.liveness(),
        Health,
        open=True,
    ),
    Route(
        "GET",
        "/health/ready",
        "Whether the transport and all plugins are well; 503 if not.",
        lambda asked: asked.board.readiness(),
        Health,
        open=True,
    ),
)
_HOST: Final = (
    Route("GET", "/v1/status", "The host and all its plugins.", lambda asked: asked.board.status(), Status),
    Route(
        "GET",
        "/v1/cluster",
        "All hosts that share the transport.",
        lambda asked: asked.board.cluster(),
        Cluster,
    ),
    Route("GET", "/v1/states", "The states, and the moves between them.", lambda asked: States.all(), States),
    Route("GET", "/v1/history", "What happened to the plugins.", lambda asked: asked.board.moves(), Moves),
    Route(
        "GET",
        "/v1/logs",
        "What was logged lately.",
        lambda asked: asked.board.logs(asked.query["plugin"], asked.query["after"], asked.query["limit"]),
        Logs,
        query=(_PLUGIN, _AFTER, _LIMIT),
    ),
)
_PLUGINS: Final = (
    Route(
        "GET",
        "/v1/plugins/{name}",
        "One plugin.",
        lambda asked: asked.board.plugin(asked.name),
        PluginSnapshot,
    ),
    Route(
        "GET",
        "/v1/plugins/{name}/history",
        "What happened to one plugin.",
        lambda asked: asked.board.moves(asked.name),
        Moves,
    ),
    _change(
        "/v1/plugins/{name}/activate",
        "Run and enable a library.",
        lambda asked: asked.board.activate(asked.name, asked.body),
        Changed,
        Activate,
    ),
    _change(
        "/v1/plugins/{name}/deactivate",
        "Disable, drain, take down.",
        lambda asked: asked.board.deactivate(asked.name),
        Changed,
    ),
    _change(
        "/v1/plugins/{name}/pause",
        "Let its messages wait.",
        lambda asked: asked.board.pause(asked.name),
        Changed,
    ),
    _change(
        "/v1/plugins/{name}/resume",
        "Go on after a pause.",
        lambda asked: asked.board.resume(asked.name),
        Changed,
    ),
)
_UPGRADES: Final = (
    Route(
        "GET",
        "/v1/plugins/{name}/upgrade",
        "How an upgrade stands.",
        lambda asked: asked.board.upgraded(asked.name),
        Upgraded,
    ),
    _change(
        "/v1/plugins/{name}/upgrade",
        "Let another version take the place of the one that runs.",
        lambda asked: asked.board.upgrade(asked.name, asked.body),
        Upgraded,
        Upgrade,
    ),
    _change(
        "/v1/plugins/{name}/upgrade/deal",
        "Give a canary another part.",
        lambda asked: asked.board.deal(asked.name, asked.body.percent),
        Upgraded,
        Deal,
    ),
    _change(
        "/v1/plugins/{name}/upgrade/switch",
        "Blue to green, or back.",
        lambda asked: asked.board.switch(asked.name),
        Upgraded,
    ),
    _change(
        "/v1/plugins/{name}/upgrade/promote",
        "The new version stays.",
        lambda asked: asked.board.promote(asked.name),
        Upgraded,
    ),
    _change(
        "/v1/plugins/{name}/upgrade/send-back",
        "The old version stays.",
        lambda asked: asked.board.send_back(asked.name),
        Upgraded,
    ),
    _change(
        "/v1/plugins/{name}/rollback",
        "Return to the version before.",
        lambda asked: asked.board.roll_back(asked.name),
        Upgraded,
    ),
)
_DEAD_LETTERS: Final = (
    Route("GET", "/v1/dead-letters", "The newest dead letters.", _page, LetterPage, query=_LETTERS),
    Route(
        "POST",
        "/v1/dead-letters/discard",
        "Throw dead letters away, for good.",
        lambda asked: _in_thread(
            asked.board.letters.discard, asked.body.chosen(), dry_run=asked.body.dry_run
        ),
        Discarded,
        takes=Discard,
    ),
    Route(
        "POST",
        "/v1/dead-letters/export",
        "Dead letters as JSON Lines, the oldest first; they stay.",
        lambda asked: asked.board.letters.export(asked.body.chosen()),
        Lines,
        takes=Which,
    ),
    Route(
        "POST",
        "/v1/dead-letters/import",
        "Keep dead letters that were exported: all, or none.",
        _import,
        Imported,
        takes=Lines,
        largest=64 * _KIB * _KIB,
    ),
    Route(
        "POST",
        "/v1/dead-letters/replay",
        "Send dead letters to their plugins again, as a job of the host.",
        lambda asked: _in_thread(asked.board.letters.replay, asked.body.wish(), dry_run=asked.body.dry_run),
        Replay,
        takes=AskReplay,
    ),
    Route(
        "GET",
        "/v1/dead-letters/jobs",
        "The newest replays.",
        lambda asked: _in_thread(asked.board.letters.jobs),
        Jobs,
    ),
    Route(
        "GET",
        "/v1/dead-letters/jobs/{number}",
        "How far a replay has come.",
        lambda asked: _in_thread(asked.board.letters.job, asked.number),
        ReplayJob,
    ),
    Route(
        "POST",
        "/v1/dead-letters/jobs/{number}/cancel",
        "Go no further with a replay.",
        lambda asked: _in_thread(asked.board.letters.cancel, asked.number),
        ReplayJob,
    ),
    Route(
        "GET",
        "/v1/dead-letters/{number}",
        "One dead letter, whole.",
        lambda asked: _in_thread(asked.board.letters.letter, asked.number),
        LetterWhole,
    ),
    Route(
        "POST",
        "/v1/dead-letters/{number}/edit",
        "Let its replay send other data.",
        lambda asked: _in_thread(
            asked.board.letters.edit, asked.number, asked.body.data, dry_run=asked.body.dry_run
        ),
        Edited,
        takes=Edit,
        largest=16 * _KIB * _KIB,
    ),
)
_MESSAGES: Final = (
    Route(
        "GET",
        "/v1/messages",
        "The newest messages that were made from no other, and what became of them.",
        lambda asked: asked.board.messages.newest(asked.query["limit"]),
        Newest,
        query=(Query("limit", int, "At most so many, the newest.", 20, most=100),),
    ),
    Route(
        "GET",
        "/v1/messages/{id}",
        "The whole path of a message, by its id, its root's or its trace's.",
        lambda asked: asked.board.messages.path(asked.name, asked.query["limit"]),
        MessagePath,
        query=(Query("limit", int, "At most so many messages.", MOST, most=10 * MOST),),
    ),
    Route(
        "POST",
        "/v1/messages/{id}/replay",
        "Send a kept message again.",
        lambda asked: asked.board.messages.replay(asked.name, asked.body),
        Replayed,
        takes=ReplayMessage,
    ),
)

ROUTES: Final = (*_HEALTH, *_HOST, *_PLUGINS, *_UPGRADES, *_DEAD_LETTERS, *_MESSAGES)
FAILURES: Final = {
    400: "The request is malformed.",
    401: "The token is missing or wrong.",
    403: "The Host or the Origin is not this host's.",
    404: "There is no such plugin, library, letter, replay or message.",
    409: "It could not be done; all is as before.",
    503: "The host is starting or stopping.",
}
"""Answers that any route may give; the body is a `Failure`."""
