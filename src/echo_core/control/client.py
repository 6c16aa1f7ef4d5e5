"""Asks a running host, over its control API; what it refuses is raised here as it was raised there."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

import msgspec

from echo_core.control.door import Door, find_door
from echo_core.errors import EchoCoreError, NoHost, NotAllowed
from echo_core.workspace import Workspace

T = TypeVar("T")

_PROMPT_S: Final = 2.0
"""How long a host that listens may take to say that it is there."""
_CHANGE_S: Final = 300.0
"""How long a change may take; each has its own deadlines in the host."""


class HostClient:
    """A host that was there a moment ago."""

    def __init__(self, door: Door, workspace: Workspace) -> None:
        self._door = door
        self._workspace = workspace

    def get(self, path: str, kind: type[T]) -> T:
        """Ask; raises `NoHost`, and what the host raised."""
        return self._call("GET", path, None, kind, timeout=10.0)

    def post(self, path: str, kind: type[T], body: Mapping[str, Any] | None = None) -> T:
        """Have something done; returns when it is. Raises `NoHost`, and what the host raised."""
        return self._call("POST", path, body or {}, kind, timeout=_CHANGE_S)

    def is_there(self) -> bool:
        """Whether it answers; raises `NoHost` for one that listens, and does not."""
        try:
            self._request("GET", "/health/live", None, timeout=_PROMPT_S)
        except TimeoutError as error:
            pid = self._door.address.pid
            raise NoHost(
                "the host does not answer",
                where=f"{self._workspace.root}, process {pid}",
                why=f"it was stopped, or a plugin has blocked its event loop for {_PROMPT_S:g} s",
                fix=f"try again; what it is at is on its stderr. To end it: kill {pid}",
            ) from error
        except OSError:
            return False
        return True

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, kind: type[T], *, timeout: float
    ) -> T:
        try:
            status, content = self._request(method, path, body, timeout=timeout)
        except TimeoutError as error:
            raise no_host(self._workspace, f"it does not answer within {timeout:g} s") from error
        except OSError as error:
            raise no_host(self._workspace, str(error) or type(error).__name__) from error
        if status == 401:
            raise NotAllowed(
                "the host does not know this token",
                where=str(self._workspace.state / "control"),
                why="the file was changed since the host wrote it",
                fix="end the host and start it again: it writes a new one",
            )
        if status != 200:
            raise _raised(content)
        return msgspec.json.decode(content, type=kind)

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, timeout: float
    ) -> tuple[int, bytes]:
        """Status and body; raises OSError for whatever comes between."""
        import http.client  # takes longer to load than it takes to see that there is no host

        connection = http.client.HTTPConnection("127.0.0.1", self._door.address.port, timeout=timeout)
        headers = {"Authorization": f"Bearer {self._door.token}"}
        content = None if body is None else msgspec.json.encode(body)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (http.client.HTTPException, ValueError) as error:
            raise OSError(f"its answer is no HTTP: {error!r}") from error
        finally:
            connection.close()


def running_host(workspace: Workspace) -> HostClient | None:
    """The workspace's host, if there is one; raises `NoHost` for one that listens, and does not answer."""
    door = find_door(workspace)
    if door is None:
        return None
    client = HostClient(door, workspace)
    return client if client.is_there() else None


def reach_host(workspace: Workspace) -> HostClient:
    """The workspace's host; raises `NoHost`, at once where none listens."""
    client = running_host(workspace)
    if client is None:
        raise no_host(workspace, "none answers on its control API")
    return client


def no_host(workspace: Workspace, why: str) -> NoHost:
    """The error, with the line that starts a host."""
    start = f"echo-core run --project {shlex.quote(str(workspace.root))}"
    return NoHost("no host runs here", where=str(workspace.root), why=why, fix=start)


def _raised(content: bytes) -> EchoCoreError:
    """The host's error, of its own class again."""
    try:
        problem = msgspec.json.decode(content)["error"]
        code, what = problem["code"], problem["message"]
        details = {key: problem.get(key, "") for key in ("where", "why", "fix")}
    except (msgspec.DecodeError, KeyError, TypeError):
        return NoHost("what answers there is no host of Echo Core", why=repr(content[:80]))
    kind = next((kind for kind in _kinds(EchoCoreError) if kind.code == code), NotAllowed)
    error = kind.__new__(kind)  # some kinds are made from other arguments than these
    EchoCoreError.__init__(error, what, **details)
    return error


def _kinds(kind: type[EchoCoreError]) -> Iterator[type[EchoCoreError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _kinds(derived)
