"""A library that is instrumented for OpenTelemetry, used by a plugin: its spans hang under the plugin's.

The library does what instrumentations of HTTP clients do: a CLIENT span by the API's global tracer, whose
context goes out as a header. Those of requests, urllib and httpx were tried by hand, with the same outcome.
"""

import pytest

from common_telemetry.config import Engine
from common_telemetry.testing import OtlpReceiver, ReceivedSpan
from telemetry.faulty import faulty
from telemetry.test_setup import run_alone

USING = '''
import asyncio
import contextvars
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import SimpleNamespace

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from common_telemetry import TelemetryConfig, TelemetryContext

telemetry = TelemetryContext.from_config(TelemetryConfig(engine=os.environ["ENGINE"]))
telemetry.install_globals()
plugin = telemetry.for_plugin("sink", "1.0.0", "running")


def get():
    """What an instrumented HTTP client does."""
    tracer = trace.get_tracer("an.http.client", "1.0")
    with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"url.path": "/"}) as span:
        headers = {}
        propagate.inject(headers)
        with urllib.request.urlopen(urllib.request.Request(os.environ["URL"], b"", headers)) as answer:
            span.set_attribute("http.response.status_code", HTTPStatus(answer.status))


def in_a_span():
    with plugin.create_span("step"):
        get()


def in_a_thread_of_the_loop():
    async def call():
        await asyncio.to_thread(get)

    asyncio.run(call())


def in_tasks():
    async def call():
        await asyncio.sleep(0)
        get()

    async def call_all():
        async with asyncio.TaskGroup() as group:
            group.create_task(call())
        await asyncio.gather(call(), asyncio.create_task(call()))

    asyncio.run(call_all())


def in_a_pool_with_the_context():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, get).result()


def in_a_generator():
    def rows():
        with plugin.create_span("rows"):
            get()
            yield 1
            get()

    list(rows())


def in_an_asynchronous_generator():
    async def rows():
        for _ in range(2):
            await asyncio.sleep(0)
            get()
            yield 1

    async def call():
        return [row async for row in rows()]

    asyncio.run(call())


def in_a_thread_without_the_context():
    thread = threading.Thread(target=get)
    thread.start()
    thread.join()


WAYS = (get, in_a_span, in_a_thread_of_the_loop, in_tasks, in_a_pool_with_the_context, in_a_generator,
        in_an_asynchronous_generator, in_a_thread_without_the_context)
for way in WAYS:
    name = way.__name__
    message = SimpleNamespace(
        id=name, root_id=name, parent_ids=(), timestamp=time.time_ns(), trace_context={}
    )
    with plugin.messages.process("orders.raw", message):
        way()
with trace.get_tracer("a.web.server").start_as_current_span("GET /orders", kind=SpanKind.SERVER):
    with plugin.messages.publish("orders.raw", "from outside", "from outside"):
        get()
    with plugin.create_span("of ours"):
        get()
assert telemetry.shutdown()
'''


@pytest.fixture(scope="module", params=["official", "fast"])
def used(request: pytest.FixtureRequest) -> dict[str, list[ReceivedSpan]]:
    """The spans by the id of the message they belong to, and the headers that went out."""
    engine: Engine = request.param
    with OtlpReceiver() as receiver, faulty() as backend:
        ended = run_alone(USING, ENGINE=engine, URL=backend.endpoint, **receiver.environ())
        assert (ended.returncode, ended.stderr) == (0, "")
        spans = receiver.spans()
        headers = [post.headers["traceparent"] for post in backend.posts]
    called = {f"{span.trace_id}-{span.span_id}": span for span in spans if span.name == "GET"}
    # What was called continues the very span of the call.
    assert sorted(header[3:52] for header in headers) == sorted(called)
    assert {span.kind for span in called.values()} == {"client"}
    assert {span.attributes["http.response.status_code"] for span in called.values()} == {200}
    roots = {span.trace_id: span for span in spans if not span.parent_span_id}
    found: dict[str, list[ReceivedSpan]] = {}
    for span in spans:
        root = roots[span.trace_id]
        found.setdefault(str(root.attributes.get("message.id", root.name)), []).append(span)
    return found


def tree(spans: list[ReceivedSpan]) -> list[str]:
    """Each span as its name and the names above it."""
    by_id = {span.span_id: span for span in spans}

    def path(span: ReceivedSpan) -> str:
        above = by_id.get(span.parent_span_id)
        return span.name if above is None else f"{path(above)} > {span.name}"

    return sorted(path(span) for span in spans)


ROOT = "process orders.raw"
EXPECTED = {
    "get": [f"{ROOT} > GET"],
    "in_a_span": [f"{ROOT} > step", f"{ROOT} > step > GET"],
    "in_a_thread_of_the_loop": [f"{ROOT} > GET"],
    "in_tasks": [f"{ROOT} > GET"] * 3,
    "in_a_pool_with_the_context": [f"{ROOT} > GET"],
    "in_a_generator": [f"{ROOT} > rows", f"{ROOT} > rows > GET", f"{ROOT} > rows > GET"],
    "in_an_asynchronous_generator": [f"{ROOT} > GET"] * 2,
    "in_a_thread_without_the_context": [],
}


def test_calls_hang_under_the_message_they_are_made_for(used: dict[str, list[ReceivedSpan]]) -> None:
    assert {way: tree(used[way]) for way in EXPECTED} == {
        way: [ROOT, *below] for way, below in EXPECTED.items()
    }


def test_a_call_from_a_thread_without_the_context_is_a_trace_of_its_own(
    used: dict[str, list[ReceivedSpan]],
) -> None:
    assert tree(used["GET"]) == ["GET"]


def test_what_plugins_do_within_somebody_elses_span_hangs_under_it(
    used: dict[str, list[ReceivedSpan]],
) -> None:
    assert tree(used["GET /orders"]) == [
        "GET /orders",
        "GET /orders > of ours",
        "GET /orders > of ours > GET",
        "GET /orders > publish orders.raw",
        "GET /orders > publish orders.raw > GET",
    ]
