"""The conversation with a process, without one."""

import asyncio
from typing import Any, cast

import pytest

from echo_core.runtime.isolation import wire
from echo_core.runtime.isolation.session import ProcessLost, Session
from echo_core.runtime.isolation.wire import FROM_HOST, Answer, FrameReader


class Foreign:
    """A transport of another event loop, like uvloop: it does what they all do, and derives from nothing."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_aborted = True


def session(broken: list[str]) -> tuple[Session, Foreign]:
    async def accept(wanted: object) -> None: ...

    transport = Foreign()
    made = Session(1, accept, broken.append, lambda: None)
    made.connection_made(cast(Any, transport))
    return made, transport


def test_a_transport_of_any_event_loop_will_do() -> None:
    async def main() -> None:
        made, transport = session([])
        asked = asyncio.create_task(made.ask("health"))
        await asyncio.sleep(0)
        ((_, ask),) = FrameReader(FROM_HOST, 1).read(bytes(transport.written))
        made.data_received(bytes(wire.frame(wire.ANSWER, Answer(ask.id, True), 1)))
        assert await asked is True
        made.close("the end")
        assert transport.is_aborted

    asyncio.run(main())


def test_an_answer_of_an_earlier_process_is_none() -> None:
    async def main() -> None:
        made, transport = session([])
        asked = asyncio.create_task(made.ask("health"))
        await asyncio.sleep(0)
        ((_, ask),) = FrameReader(FROM_HOST, 1).read(bytes(transport.written))
        made.data_received(bytes(wire.frame(wire.ANSWER, Answer(ask.id, True), 0)))
        await asyncio.sleep(0)
        assert not asked.done()
        made.close("it died")
        with pytest.raises(ProcessLost, match="it died"):
            await asked

    asyncio.run(main())


def test_what_comes_after_the_end_is_not_heard_and_what_is_said_goes_nowhere() -> None:
    async def main() -> None:
        broken: list[str] = []
        made, transport = session(broken)
        made.close("it died")
        made.data_received(b"\xff" * 64)
        made.send(wire.STATUS, "running")
        made.connection_lost(None)
        assert broken == []
        assert not transport.written
        with pytest.raises(ProcessLost):
            await made.ask("health")

    asyncio.run(main())
