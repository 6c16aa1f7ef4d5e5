"""Dead letters over the control API: the same as on the command line, by the same code."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from control.serving import Served, run
from echo_core import ProcessingStatus
from echo_core.control.openapi import document
from echo_core.workspace import Workspace
from runtime.hosting import Handler, World, manifest
from support.letters import letter
from support.libraries import make_workspace

LETTERS = "/v1/dead-letters"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return make_workspace(tmp_path / "ws")


async def post(served: Served, path: str, body: Any = None, expected: int = 200) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    code, answer = await served.ask("POST", f"{LETTERS}/{path}", raw)
    assert code == expected, answer
    return answer


async def ended(served: Served, number: int) -> Any:
    while True:
        _, job = await served.ask("GET", f"{LETTERS}/jobs/{number}")
        if job["state"] in ("done", "cancelled"):
            return job
        await asyncio.sleep(0.01)


def test_letters_are_found_grouped_and_paged(workspace: Workspace) -> None:
    def prepare(world: World) -> None:
        world.dead_letters.add([letter(number, reason=f"ValueError: no {number}") for number in range(5)])
        world.dead_letters.add([letter(5, plugin="other", topic="a.b", reason="late\nvery")])

    async def scenario(served: Served) -> None:
        _, page = await served.ask("GET", f"{LETTERS}?limit=2")
        assert (page["total"], [one["id"] for one in page["letters"]]) == (6, [6, 5])
        groups = [(group["plugin"], group["kind"], group["count"]) for group in page["groups"]]
        assert groups == [("worker", "ValueError: no …", 5), ("other", "late", 1)]
        _, page = await served.ask("GET", f"{LETTERS}?limit=2&before=5")
        assert [one["id"] for one in page["letters"]] == [4, 3]
        for query, found in (
            ("plugin=other", [6]),
            ("error=no%202", [3]),
            ("error=VALUEERROR:%20no%20%E2%80%A6&before=3", [2, 1]),
            ("topic=a.*", [6]),
            ("since=1h", []),
            ("until=2000-01-01&plugin=other", [6]),
        ):
            _, page = await served.ask("GET", f"{LETTERS}?{query}")
            assert [one["id"] for one in page["letters"]] == found, query
        for query in ("since=yesterday", "topic=a..b", "before=x"):
            assert (await served.ask("GET", f"{LETTERS}?{query}"))[0] == 400, query
        _, whole = await served.ask("GET", f"{LETTERS}/6")
        assert (whole["message"]["data"], whole["edited"]) == (5, False)
        assert (await served.ask("GET", f"{LETTERS}/{'9' * 30}"))[0] == 400

    run(workspace, scenario, prepare)


def test_a_letter_is_edited_and_replayed_by_the_host(workspace: Workspace) -> None:
    worker = Handler(
        lambda message: None if message.data == {"lang": "en"} else ProcessingStatus.FAILED("no lang")
    )

    def prepare(world: World) -> None:
        world.add(worker, manifest("worker", hears=("work.#",)))
        world.dead_letters.add([letter({"lang": None}), letter({"lang": None})])

    async def scenario(served: Served) -> None:
        assert (await post(served, "1/edit", {"data": {"lang": "en"}, "dry_run": True}))["changed"]
        edited = await post(served, "1/edit", {"data": {"lang": "en"}})
        assert [line for line in edited["diff"] if line[:2] in ("- ", "+ ")] == [
            '-  "lang": null',
            '+  "lang": "en"',
        ]
        assert not (await post(served, "1/edit", {"data": {"lang": "en"}}))["changed"]
        await post(served, "1/edit", {}, 400)
        await post(served, "9/edit", {"data": 1}, 404)
        would = await post(served, "replay", {"ids": [1], "dry_run": True})
        assert (would["total"], [one["id"] for one in would["letters"]], would["job"]) == (1, [1], None)
        await post(served, "replay", {}, 400)
        await post(served, "replay", {"all": True, "rate": 0}, 400)
        asked = await post(served, "replay", {"plugin": "worker", "first": 1})
        job = await ended(served, asked["job"]["id"])
        assert (job["done"], job["failed"], job["total"]) == (1, 0, 1)
        assert worker.data == [{"lang": "en"}]
        _, jobs = await served.ask("GET", f"{LETTERS}/jobs")
        assert [one["id"] for one in jobs["jobs"]] == [1]

    run(workspace, scenario, prepare)


def test_an_edit_back_to_what_came_is_no_edit(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        await post(served, "1/edit", {"data": 2})
        assert (await served.ask("GET", f"{LETTERS}/1"))[1]["edited_message"]["data"] == 2
        await post(served, "1/edit", {"data": 1})
        assert (await served.ask("GET", f"{LETTERS}/1"))[1]["edited"] is False

    run(workspace, scenario, lambda world: world.dead_letters.add([letter(1)]))


def test_a_replay_is_cancelled_and_what_it_had_not_sent_stays(workspace: Workspace) -> None:
    def prepare(world: World) -> None:
        world.add(Handler(), manifest("worker", hears=("work.#",)))
        world.dead_letters.add([letter(number) for number in range(50)])

    async def scenario(served: Served) -> None:
        asked = await post(served, "replay", {"all": True, "rate": 5})
        number = asked["job"]["id"]
        while (await served.ask("GET", f"{LETTERS}/jobs/{number}"))[1]["done"] == 0:
            await asyncio.sleep(0.01)
        await post(served, f"jobs/{number}/cancel")
        await post(served, f"jobs/{number}/cancel", expected=409)
        await post(served, "jobs/99/cancel", expected=404)
        job = await ended(served, number)
        rest = await post(served, "discard", {"all": True, "dry_run": True})
        assert 0 < job["done"] < 50
        assert rest["discarded"] == 50 - (await served.ask("GET", f"{LETTERS}/jobs/{number}"))[1]["done"]

    run(workspace, scenario, prepare)


def test_letters_travel_over_the_api_as_they_do_in_files(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        lines = await post(served, "export", {"plugin": "worker"})
        assert [json.loads(line)["schema"] for line in lines.splitlines()] == ["echo-core.dead-letter/1"] * 2
        assert (await post(served, "discard", {"plugin": "worker"}))["discarded"] == 2
        assert (await post(served, "import", lines.encode()))["imported"] == 2
        _, page = await served.ask("GET", f"{LETTERS}?plugin=worker")
        assert [one["id"] for one in page["letters"]] == [5, 4]
        wrong = await post(served, "import", lines.encode() + b"{}\n", 400)
        assert "the body, line 3" in wrong["error"]["where"]
        for nonsense in (b"\xff", b""):
            await post(served, "import", nonsense, 400)
        for path in ("export", "discard"):
            await post(served, path, {}, 400)
            await post(served, path, {"plugn": "x"}, 400)

    def prepare(world: World) -> None:
        world.dead_letters.add([letter(1), letter({"text": "a\u2028b"}), letter(3, plugin="other")])

    run(workspace, scenario, prepare)


def test_what_is_kept_is_told_by_status_and_probe_and_leaves_the_host_ready(workspace: Workspace) -> None:
    async def scenario(served: Served) -> None:
        for path, code in (("/v1/status", 200), ("/health/ready", 200)):
            found, answer = await served.ask("GET", path)
            assert (found, [(one["plugin"], one["count"]) for one in answer["dead_letters"]]) == (
                code,
                [("gone", 1), ("worker", 2)],
            )
            assert answer["dead_letters"][0]["age_s"] > 0

    def prepare(world: World) -> None:
        world.dead_letters.add([letter(1), letter(2), letter(3, plugin="gone")])

    run(workspace, scenario, prepare)


def test_the_answers_are_as_the_document_says(workspace: Workspace) -> None:
    specification = document()

    async def scenario(served: Served) -> None:
        for method, path, body in (
            ("GET", "", None),
            ("GET", "/{number}", None),
            ("POST", "/{number}/edit", b'{"data": {"text": "mended"}}'),
            ("POST", "/replay", b'{"all": true, "dry_run": true}'),
            ("POST", "/replay", b'{"all": true, "rate": 1}'),
            ("GET", "/jobs", None),
            ("GET", "/jobs/{number}", None),
            ("POST", "/jobs/{number}/cancel", None),
            ("POST", "/discard", b'{"all": true}'),
        ):
            code, answer = await served.ask(method, LETTERS + path.replace("{number}", "1"), body)
            assert code == 200, answer
            content = specification["paths"][LETTERS + path][method.lower()]["responses"]["200"]["content"]
            schema = content["application/json"]["schema"] | {"components": specification["components"]}
            jsonschema.validate(answer, schema, cls=jsonschema.Draft202012Validator)

    run(workspace, scenario, lambda world: world.dead_letters.add([letter({"text": "um"}), letter(2)]))
