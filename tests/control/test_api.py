"""The control API of a real host, over real sockets."""

import asyncio
import json
import logging
import socket
import stat
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from control.serving import Served, run
from echo_core import PluginContext
from echo_core.control.board import Board
from echo_core.control.client import HostClient, reach_host, running_host
from echo_core.control.documents import Changed, Status
from echo_core.control.door import Address, Door, find_door, open_door
from echo_core.control.log_tail import LogTail
from echo_core.control.openapi import document
from echo_core.control.routes import ROUTES
from echo_core.control.server import _listening, serve
from echo_core.errors import ChangeRefused, NoHost, NotAllowed, NotFound, PluginInitError, SettingsError
from echo_core.runtime.registry import enabled
from echo_core.runtime.states import NEXT, PluginState
from echo_core.transports.memory import MemoryTransport
from echo_core.workspace import Workspace
from runtime.hosting import Handler, World, manifest
from runtime.message_history.history import recording
from support.libraries import make_library, make_workspace

BROKEN = """
    def create_plugin():
        raise ValueError("no plugin today")
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


def test_a_plugin_s_whole_life_can_be_led_over_the_api(workspace: Workspace) -> None:
    make_library(workspace, version="1.0")

    async def scenario(served: Served) -> None:
        code, done = await served.ask(
            "POST", "/v1/plugins/greeter/activate", b'{"build_type": "development"}'
        )
        assert (code, done["already"], done["plugin"]["state"]) == (200, False, "running")
        assert [entry.name for entry in enabled(workspace)] == ["greeter"]
        assert (await served.ask("POST", "/v1/plugins/greeter/activate"))[1]["already"] is True
        assert (await served.ask("POST", "/v1/plugins/greeter/pause"))[1]["plugin"]["state"] == "paused"
        code, health = await served.ask("GET", "/health/ready")
        assert (code, health["reasons"]) == (503, ["greeter 1.0 is paused: by an operator"])
        assert (await served.ask("POST", "/v1/plugins/greeter/resume"))[1]["plugin"]["state"] == "running"
        assert (await served.ask("GET", "/health/ready"))[0] == 200
        _, status = await served.ask("GET", "/v1/status")
        assert [(plugin["name"], plugin["version"]) for plugin in status["plugins"]] == [("greeter", "1.0")]
        _, history = await served.ask("GET", "/v1/plugins/greeter/history")
        assert [move["state"] for move in history["moves"]] == ["starting", "running", "paused", "running"]
        code, done = await served.ask("POST", "/v1/plugins/greeter/deactivate")
        assert (code, done["plugin"]) == (200, None)
        assert not enabled(workspace)
        _, logs = await served.ask("GET", "/v1/logs?plugin=greeter&limit=2")
        assert [line["text"] for line in logs["lines"]] == [
            "greeter 1.0 is stopping: it is deactivated",
            "greeter 1.0 is stopped: shutdown has ended",
        ]

    run(workspace, scenario)


def test_what_fails_says_why_and_leaves_all_as_it_was(workspace: Workspace) -> None:
    make_library(workspace, version="1.0")
    make_library(workspace, code=BROKEN, version="2.0")

    async def scenario(served: Served) -> None:
        first = await served.ask("POST", "/v1/plugins/greeter/activate", b'{"version": "1.0"}')
        assert first[0] == 200
        code, failure = await served.ask("POST", "/v1/plugins/greeter/activate", b'{"version": "2.0"}')
        assert (code, failure["error"]["code"]) == (409, "E-INIT")
        assert "no plugin today" in failure["error"]["why"]
        assert (await served.ask("GET", "/v1/plugins/greeter"))[1]["version"] == "1.0"
        assert [entry.version for entry in enabled(workspace)] == ["1.0"]
        for method, path, expected in (
            ("GET", "/v1/plugins/nobody", 404),
            ("POST", "/v1/plugins/nobody/pause", 404),
            ("POST", "/v1/plugins/nobody/activate", 404),
            ("POST", "/v1/plugins/greeter/resume", 200),
            ("GET", "/v1/dead-letters/7", 404),
            ("GET", "/v1/dead-letters/seven", 404),
            ("GET", "/v1/dead-letters/replay", 405),
            ("GET", "/v1/logs?limit=-1", 400),
            ("GET", "/v1/logs?limit=1001", 400),
            ("HEAD", "/v1/status", 200),
            ("GET", "/nowhere", 404),
            ("DELETE", "/v1/status", 405),
        ):
            code, answer = await served.ask(method, path)
            assert code == expected, (path, answer)
            assert code == 200 or answer["error"]["message"]
        for body in (b"{", b'"x"', b'{"versoin": "1"}', b'{"build_type": "final"}', b"\xff", b" " * 70_000):
            assert (await served.ask("POST", "/v1/plugins/greeter/activate", body))[0] == 400

    run(workspace, scenario)


def test_only_who_knows_the_token_and_comes_from_this_machine_is_let_in(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        port = served.door.address.port
        for path in ("/v1/status", "/v1/logs", "/v1/plugins/x"):
            assert (await served.ask("GET", path, token=""))[0] == 401
            assert (await served.ask("GET", path, token=served.door.token[:-1]))[0] == 401
            assert (await served.ask("GET", path, token="ö"))[0] == 401  # noqa: S106
        assert (await served.ask("GET", "/health/live", token=""))[0] == 200
        foreign: list[tuple[dict[str, str], int]] = [
            ({"Host": f"evil.example:{port}"}, 403),
            ({"Host": "127.0.0.1"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": f"http://127.0.0.1:{port}"}, 200),
            ({"Host": f"localhost:{port}"}, 200),
        ]
        for headers, expected in foreign:
            for path in ("/v1/status", "/health/live", "/openapi.json"):
                assert (await served.ask("GET", path, headers=headers))[0] == expected, headers

    run(workspace, scenario)


def test_the_door_can_be_read_by_its_user_alone_and_is_gone_with_the_host(workspace: Workspace) -> None:
    folder = workspace.state / "control"

    async def scenario(served: Served) -> None:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("token", "host.json"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600

    run(workspace, scenario)
    assert find_door(workspace) is None
    assert running_host(workspace) is None


def test_a_second_host_of_a_workspace_does_not_take_the_door(workspace: Workspace, caplog: Any) -> None:
    async def scenario(served: Served) -> None:
        before = served.door
        logs = LogTail()
        board = Board(served.host, None, workspace, served.world.dead_letters, logs)  # type: ignore[arg-type]
        with caplog.at_level(logging.WARNING):
            await serve(served.host, board, logs, workspace, 0)
        assert "another host of this workspace runs" in caplog.text
        assert served.door == before

    run(workspace, scenario)


def test_a_door_that_was_left_by_a_host_that_was_killed_is_no_host(workspace: Workspace) -> None:
    with open_door(workspace, Address(pid=1, port=1, version="0")):
        files = {path: path.read_bytes() for path in (workspace.state / "control").glob("*.json")}
        files |= {path: path.read_bytes() for path in (workspace.state / "control").glob("token")}
    for path, content in files.items():
        path.write_bytes(content)
    assert find_door(workspace) is not None
    with pytest.raises(NoHost) as caught:
        reach_host(workspace)
    assert caught.value.exit_code == 5
    assert caught.value.fix.startswith("echo-core run")


def test_a_host_that_listens_and_does_not_answer_is_told_from_none(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.control.client._PROMPT_S", 0.05)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with open_door(workspace, Address(pid=4, port=listener.getsockname()[1], version="0")):
            with pytest.raises(NoHost, match="does not answer") as caught:
                running_host(workspace)
            assert "kill 4" in caught.value.fix
    assert running_host(workspace) is None


def test_the_client_raises_what_the_host_raised(workspace: Workspace) -> None:
    make_library(workspace, code=BROKEN, version="2.0")

    async def scenario(served: Served) -> None:
        client = served.client
        status = await asyncio.to_thread(client.get, "/v1/status", Status)
        assert [plugin.name for plugin in status.plugins] == ["steady"]
        done = await asyncio.to_thread(client.post, "/v1/plugins/steady/pause", Changed)
        assert done.plugin is not None
        assert done.plugin.state is PluginState.PAUSED
        await asyncio.to_thread(client.post, "/v1/plugins/steady/deactivate", Changed)
        for path, kind in (
            ("/v1/plugins/steady/pause", NotFound),
            ("/v1/plugins/greeter/activate", PluginInitError),
        ):
            with pytest.raises(kind):
                await asyncio.to_thread(client.post, path, Changed)
        stranger = HostClient(Door(address=served.door.address, token="guess"), workspace)  # noqa: S106
        with pytest.raises(NotAllowed) as caught:
            await asyncio.to_thread(stranger.get, "/v1/status", Status)
        assert caught.value.exit_code == 4
        assert ChangeRefused.exit_code == 4

    run(workspace, scenario, lambda world: world.add(Handler(), manifest("steady", hears=("raw",))))


def test_upgrades_are_begun_watched_ended_and_undone_over_the_api(workspace: Workspace) -> None:
    make_library(workspace, version="1.0")
    make_library(workspace, version="2.0", files={"src/greeter/more.py": "MORE = 2\n"})
    make_library(workspace, version="3.0", code=BROKEN)
    path = "/v1/plugins/greeter"

    def enabled_version() -> str:
        return enabled(workspace)[0].version

    async def scenario(served: Served) -> None:
        assert (await served.ask("POST", f"{path}/upgrade", b'{"version": "2.0"}'))[0] == 404
        await served.ask("POST", f"{path}/activate", b'{"version": "1.0"}')
        code, failure = await served.ask("POST", f"{path}/rollback")
        assert (code, failure["error"]["code"]) == (409, "E-STATE")
        code, failure = await served.ask("POST", f"{path}/upgrade")
        assert (code, failure["error"]["code"]) == (409, "E-INIT")
        code, done = await served.ask("POST", f"{path}/upgrade", b'{"version": "2.0"}')
        assert (code, done["trial"], done["plugin"]["version"]) == (200, None, "2.0")
        assert enabled_version() == "2.0"
        assert (await served.ask("POST", f"{path}/upgrade", b'{"version": "2.0"}'))[0] == 409
        code, done = await served.ask("POST", f"{path}/rollback")
        assert (code, done["plugin"]["version"]) == (200, "1.0")
        assert enabled_version() == "1.0"

        canary = b'{"version": "2.0", "plan": {"strategy": "canary", "percent": 20}}'
        code, begun = await served.ask("POST", f"{path}/upgrade", canary)
        assert (code, begun["trial"]["percent"], begun["plugin"]["version"]) == (200, 20, "1.0")
        assert enabled_version() == "1.0"
        assert (await served.ask("POST", f"{path}/pause"))[0] == 409
        assert (await served.ask("POST", f"{path}/upgrade", canary))[0] == 409
        _, dealt = await served.ask("POST", f"{path}/upgrade/deal", b'{"percent": 50}')
        assert dealt["trial"]["percent"] == 50
        for percent in (b"0", b"101", b'"x"'):
            wrong = await served.ask("POST", f"{path}/upgrade/deal", b'{"percent": ' + percent + b"}")
            assert wrong[0] == 400
        _, back = await served.ask("POST", f"{path}/rollback")
        assert (back["trial"], back["outcome"]) == (None, "2.0 was sent back: by an operator")
        assert enabled_version() == "1.0"

        await served.ask("POST", f"{path}/upgrade", canary.replace(b"canary", b"blue-green"))
        _, switched = await served.ask("POST", f"{path}/upgrade/switch")
        assert switched["trial"]["percent"] == 0
        _, promoted = await served.ask("POST", f"{path}/upgrade/promote")
        assert (promoted["outcome"], promoted["plugin"]["version"]) == ("2.0 was promoted", "2.0")
        assert enabled_version() == "2.0"
        assert (await served.ask("GET", f"{path}/upgrade"))[1]["outcome"] == "2.0 was promoted"

    run(workspace, scenario)
    assert enabled_version() == "2.0"


def test_an_optional_plugin_that_is_not_well_leaves_the_host_ready(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        for name in ("needed", "spare"):
            await served.ask("POST", f"/v1/plugins/{name}/pause")
        _, health = await served.ask("GET", "/health/ready")
        assert health["reasons"] == ["needed 1.2.3 is paused: by an operator"]

    def prepare(world: World) -> None:
        for name in ("needed", "spare"):
            world.add(Handler(), manifest(name, hears=("raw",)))

    run(workspace, scenario, prepare, optional=["spare"])


def test_a_host_whose_start_takes_long_says_so_and_changes_wait_for_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_core.control.server._PATIENCE_S", 0.01)
    go_on = asyncio.Event()

    class Late(Handler):
        async def init(self, context: PluginContext) -> None:
            await super().init(context)
            await go_on.wait()

    async def scenario(served: Served) -> None:
        code, health = await served.ask("GET", "/health/ready")
        assert (code, health["reasons"]) == (503, ["the host is starting", "late 1.2.3 is starting"])
        assert (await served.ask("GET", "/health/live"))[0] == 200
        pausing = asyncio.create_task(served.ask("POST", "/v1/plugins/late/pause"))
        await asyncio.sleep(0.05)
        assert not pausing.done()
        go_on.set()
        assert (await pausing)[1]["plugin"]["state"] == "paused"

    run(workspace, scenario, lambda world: world.add(Late(), manifest("late", hears=("raw",))), steady=False)


def test_a_transport_in_trouble_is_said_by_status_and_probe(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(served: Served) -> None:
        monkeypatch.setattr(MemoryTransport, "trouble", lambda self: "connection: refused")
        code, health = await served.ask("GET", "/health/ready")
        assert (code, health["reasons"]) == (503, ["the transport does not work: connection: refused"])
        _, status = await served.ask("GET", "/v1/status")
        assert (status["ready"], status["trouble"]) == (False, "connection: refused")
        assert status["transport"] == "memory://"
        assert (await served.ask("GET", "/health/live"))[0] == 200
        monkeypatch.undo()
        assert (await served.ask("GET", "/health/ready"))[0] == 200

    run(workspace, scenario)


def test_every_answer_is_as_the_document_says(workspace: Workspace) -> None:
    make_library(workspace, version="1.0")
    specification = document()

    def check(path: str, method: str, code: int, answer: Any) -> None:
        content = specification["paths"][path][method.lower()]["responses"][str(code)]["content"]
        schema = content["application/json"]["schema"] | {"components": specification["components"]}
        jsonschema.validate(answer, schema, cls=jsonschema.Draft202012Validator)

    async def scenario(served: Served) -> None:
        assert (await served.ask("GET", "/openapi.json"))[1] == json.loads(json.dumps(specification))
        for route in sorted(ROUTES, key=lambda route: "deactivate" in route.path):
            path = route.path.replace("{name}", "greeter").replace("{number}", "1")
            code, answer = await served.ask(route.method, path)
            check(route.path, route.method, code, answer)
            if not route.open:
                assert code == 200 or "{" in route.path or route.takes is not None, answer
            code, answer = await served.ask(route.method, path, token="")
            if not route.open:
                check(route.path, route.method, code, answer)
        _, states = await served.ask("GET", "/v1/states")
        assert set(states["states"]) == {state.value for state in NEXT}

    with recording(workspace.root / "history.sqlite") as recorder:
        run(workspace, scenario, message_history=recorder)
    assert len(
        {operation["operationId"] for path in specification["paths"].values() for operation in path.values()}
    ) == len(ROUTES)


def test_a_port_that_is_taken_is_said_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=f"cannot listen on port {port}.*name another port"),
            _listening(port),
        ):
            pass
