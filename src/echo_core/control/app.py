"""The application: from the table of routes to HTTP. It decides nothing of its own."""

import functools
import hmac
import inspect
import logging
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as StarletteRoute

from echo_core.control.board import Board
from echo_core.control.documents import Failure, Health, Problem
from echo_core.control.openapi import document
from echo_core.control.routes import LARGEST_NUMBER, LINES, ROUTES, Asked, Lines, Query, Route
from echo_core.errors import BadRequest, EchoCoreError, HostStopping, NotAllowed, NotFound, TopicError

logger = logging.getLogger(__name__)

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_MOST_DIGITS: Final = len(str(LARGEST_NUMBER))
_STATUS: Final = (
    (NotFound, 404),
    (HostStopping, 503),
    (BadRequest, 400),
    (TopicError, 400),
    (NotAllowed, 403),
)
_UNEXPECTED: Final = Problem(
    code="E-UNEXPECTED", message="a fault in Echo Core", fix="see the host's log, and report it"
)


def make_app(board: Board, token: str, port: int) -> Starlette:
    """The control API of the host behind `board`; it answers those who know `token`, on that port."""
    guard = _Guard(token, port)
    by_path: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        by_path.setdefault(route.path.replace("{number}", "{number:int}"), {})[route.method] = route
    routes = [
        StarletteRoute(path, functools.partial(_answer, methods, board, guard), methods=list(methods))
        for path, methods in by_path.items()
    ]
    specification = msgspec.json.encode(document())

    async def openapi(request: Request) -> Response:
        guard.check_origin(request)
        return Response(specification, media_type="application/json")

    async def wrong(request: Request, error: Exception) -> Response:
        return _failure(error)

    handlers: dict[Any, Any] = {EchoCoreError: wrong, HTTPException: wrong, Exception: wrong}
    return Starlette(routes=[*routes, StarletteRoute("/openapi.json", openapi)], exception_handlers=handlers)


class _Guard:
    """Lets in who runs on this machine, comes from no other web page, and has read the token file."""

    def __init__(self, token: str, port: int) -> None:
        self._token = token.encode()
        self._hosts = {f"{host}:{port}" for host in _LOOPBACK}

    def check_origin(self, request: Request) -> None:
        """Against names that an attacker lets resolve to this machine, and pages that call it unasked."""
        origin = request.headers.get("origin")
        if request.headers.get("host") not in self._hosts:
            raise NotAllowed("the Host header is not this host's", fix="use http://127.0.0.1 and the port")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            raise NotAllowed("the Origin header is another page's", why=f"it is {origin}")

    def check_token(self, request: Request) -> None:
        """Against other users of the machine."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._token):
            raise HTTPException(401)


async def _answer(methods: Mapping[str, Route], board: Board, guard: _Guard, request: Request) -> Response:
    guard.check_origin(request)
    route = methods["GET" if request.method == "HEAD" else request.method]
    if not route.open:
        guard.check_token(request)
    asked = Asked(
        board,
        request.path_params.get("name") or request.path_params.get("id", ""),
        request.path_params.get("number", 0),
        {query.name: _value(query, request) for query in route.query},
        await _body(route, request),
    )
    if asked.number > LARGEST_NUMBER:
        raise BadRequest("the number is too large", why=f"it is over {LARGEST_NUMBER:,}")
    document = route.answer(asked)
    if inspect.isawaitable(document):
        document = await document
    if route.gives is Lines:
        return StreamingResponse(iterate_in_threadpool(document), media_type=LINES)
    status = 503 if isinstance(document, Health) and not document.ok else 200
    return Response(msgspec.json.encode(document), status, media_type="application/json")


def _value(query: Query, request: Request) -> int | str | None:
    text = request.query_params.get(query.name)
    if text is None:
        return query.default
    if query.kind is str:
        return text
    number = int(text) if text.isdecimal() and text.isascii() and len(text) <= _MOST_DIGITS else -1
    if not 0 <= number <= query.most:
        raise BadRequest(
            f"{query.name} must be a number from 0 to {query.most:,}", why=f"it is {text[:40]!r}"
        )
    return number


async def _body(route: Route, request: Request) -> Any:
    if route.takes is None:
        return None
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > route.largest:
            raise BadRequest("the body is too large", why=f"it is over {route.largest:,} bytes")
    try:
        if route.takes is Lines:
            if not raw:
                raise BadRequest("the body is empty", fix="send what `export` gave")
            return raw.decode()
        return msgspec.json.decode(bytes(raw) or b"{}", type=route.takes)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest("the body does not fit", why=str(error), fix="see /openapi.json") from error


def _failure(error: Exception) -> Response:
    """The answer to a request that failed."""
    headers = {}
    if isinstance(error, EchoCoreError):
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 409)
        problem = Problem.of(error)
    elif isinstance(error, HTTPException):
        status = error.status_code
        headers = dict(error.headers or {})
        problem = Problem(code="E-REQUEST", message=error.detail)
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
            fix = "send `Authorization: Bearer` with what is in core/state/control/token"
            problem = Problem(code=NotAllowed.code, message="the token is missing or wrong", fix=fix)
    else:
        logger.error("a request to the control API failed", exc_info=error)
        status, problem = 500, _UNEXPECTED
    body = msgspec.json.encode(Failure(error=problem))
    return Response(body, status, headers, media_type="application/json")
