"""The plugins of the soak: what they do with a message follows from its number, so that all can be counted.

segments -> checker -> chooser +-> speakers (4 keyed lanes) +-> ledger    notes how long it took
|               |                            +-> flaky     depends on something that fails
|               |                            +-> blocking  blocks a thread
|               +-> batcher (batches of 50)  +-> slow      stops for a while now and then
+-> guest (comes and goes)                   +-> shedding  is too slow, and sheds
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from benchmarks.hosting import manifest
from echo_core import BaseMessage, Filter, Invalid, Plugin, Sink, Source, Transformer, Validator
from echo_core.manifest import Manifest
from echo_core.runtime.offer import Offer
from echo_core.settlement import Ending

RAW, VALID, KEPT, SPOKEN, BATCHED = (f"soak.{word}" for word in ("raw", "valid", "kept", "spoken", "batched"))
HEARS: Final = {
    "checker": "segments",
    "chooser": "checker",
    "speakers": "chooser",
    "batcher": "chooser",
    "ledger": "speakers",
    "flaky": "speakers",
    "blocking": "speakers",
    "slow": "batcher",
    "shedding": "batcher",
}
"""Whom each plugin gets all its messages from."""
_SPEAKERS: Final = 16


def is_valid(number: int) -> bool:
    """Whether `checker` lets it through."""
    return number % 101 != 0


def is_kept(number: int) -> bool:
    """Whether `chooser` does."""
    return is_valid(number) and number % 10 != 3


def never_works(number: int) -> bool:
    """Whether each attempt of `speakers` fails."""
    return number % 503 == 0


class Outage(Exception):
    """What a plugin depends on does not answer."""


class Segments(Source):
    """Publishes numbers at a steady rate until it is told to end, and is told how each of them ended."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.count = 0
        self.ending = False
        self.ended = asyncio.Event()
        self.endings: Counter[Ending] = Counter()

    async def produce(self) -> AsyncIterator[Any]:
        due = time.monotonic()
        while not self.ending:
            # Of what it could not publish in time, a second is made up for.
            due = max(due + 1 / self.rate, time.monotonic() - 1)
            if (left := due - time.monotonic()) > 0:
                await asyncio.sleep(left)
            self.count += 1
            yield {
                "number": self.count,
                "speaker": f"speaker {self.count % _SPEAKERS}",
                "sent": time.perf_counter(),
                "text": "and nothing was lost " * (1 + self.count % 40),
            }
        self.ended.set()

    async def settled(self, message: BaseMessage, ending: Ending) -> None:
        self.endings[ending] += 1


class Checker(Validator):
    """Refuses one in a hundred."""

    async def validate(self, message: BaseMessage) -> None:
        if not is_valid(message.data["number"]):
            raise Invalid("its number is refused")


class Chooser(Filter):
    """Lets one in ten end."""

    async def keep(self, message: BaseMessage) -> bool:
        return is_kept(message.data["number"])


class Speakers(Transformer):
    """Fails now and then, hangs now and then, and sees that each speaker's messages come in order."""

    def __init__(self) -> None:
        self._failed: set[int] = set()
        self._last: dict[str, int] = {}
        self.out_of_order = 0

    async def transform(self, message: BaseMessage) -> Any:
        number, speaker = message.data["number"], message.data["speaker"]
        if number < self._last.get(speaker, 0):  # the same again is another attempt
            self.out_of_order += 1
        self._last[speaker] = number
        if never_works(number):
            raise ValueError("this one never works")
        if number in self._failed:
            self._failed.discard(number)
        elif number % 3_001 == 0:
            self._failed.add(number)
            await asyncio.Event().wait()  # until its deadline
        elif number % 47 == 0:
            self._failed.add(number)
            raise ValueError("not at the first attempt")
        return message.data


class Batcher(Transformer):
    """Handles many at a time, and sometimes cannot."""

    async def transform(self, message: BaseMessage) -> Any:
        return {"number": message.data["number"]}

    async def transform_batch(self, messages: Sequence[BaseMessage]) -> Sequence[Any]:
        if any(message.data["number"] % 997 == 0 for message in messages):
            raise ValueError("one of these spoils the batch")
        return [{"number": message.data["number"]} for message in messages]


class Ledger(Sink):
    """The end of the longest way. Notes how long each message took, until somebody asks."""

    def __init__(self) -> None:
        self.took: deque[float] = deque(maxlen=10_000)

    async def write(self, message: BaseMessage) -> None:
        self.took.append(time.perf_counter() - message.data["sent"])


class Flaky(Sink):
    """Fails whatever it is given while what it depends on is out."""

    def __init__(self) -> None:
        self.is_out = False

    async def write(self, message: BaseMessage) -> None:
        if self.is_out:
            raise Outage("the store does not answer")


class Blocking(Sink, blocking=True):
    """Blocks a thread."""

    def write(self, message: BaseMessage) -> None:
        time.sleep(0.0002)


class Slow(Sink):
    """Takes its time with one in five hundred."""

    async def write(self, message: BaseMessage) -> None:
        if message.data["number"] % 500 == 1:
            await asyncio.sleep(0.2)


class Shedding(Sink):
    """Slower than what comes."""

    async def write(self, message: BaseMessage) -> None:
        await asyncio.sleep(0.01)


class Visits:
    """What the guests were given, whichever version it was: nothing may be left out within a visit."""

    def __init__(self) -> None:
        self._last: int | None = None
        self.handled = 0
        self.left_out = 0
        self.repeated = 0

    def begin(self) -> None:
        """What was published while no guest was there is nobody's."""
        self._last = None

    def see(self, number: int) -> None:
        """A guest was given this one."""
        self.handled += 1
        if self._last is not None and number <= self._last:
            self.repeated += 1
            return
        if self._last is not None:
            self.left_out += sum(map(is_valid, range(self._last + 1, number)))
        self._last = number


class Guest(Sink):
    """Comes and goes while the host runs."""

    def __init__(self, visits: Visits, *, is_broken: bool = False) -> None:
        self._visits = visits
        self._is_broken = is_broken

    async def init(self, context: Any) -> None:
        if self._is_broken:
            raise Outage("this version does not come up")
        await super().init(context)

    async def write(self, message: BaseMessage) -> None:
        self._visits.see(message.data["number"])


class Load:
    """All plugins of a run, and their manifests."""

    def __init__(self, rate: float) -> None:
        self.segments = Segments(rate)
        self.speakers = Speakers()
        self.ledger = Ledger()
        self.flaky = Flaky()
        self.visits = Visits()

    def plugins(self) -> list[tuple[Plugin, Manifest]]:
        """Those that stay."""
        keyed = {"lanes": 4, "ordering_key": "data.speaker", "max_attempts": 3, "backoff_ms": 4}
        held = {"circuit_failures": 10, "circuit_open_ms": 100, "circuit_open_max_ms": 400, "backoff_ms": 4}
        shed = {"queue_limit": 20, "when_full": "shed_oldest"}
        return [
            (self.segments, manifest("segments", says=[RAW])),
            (Checker(), manifest("checker", hears=[RAW], says=[VALID])),
            (Chooser(), manifest("chooser", hears=[VALID], says=[KEPT])),
            (
                self.speakers,
                manifest(
                    "speakers", hears=[KEPT], says=[SPOKEN], delivery=keyed, timeouts={"message_ms": 1_000}
                ),
            ),
            (Batcher(), manifest("batcher", hears=["*.kept"], says=[BATCHED], delivery={"batch_size": 50})),
            (self.ledger, manifest("ledger", hears=["#.spoken"])),
            (self.flaky, manifest("flaky", hears=[SPOKEN], delivery=held)),
            (Blocking(), manifest("blocking", hears=[SPOKEN])),
            (Slow(), manifest("slow", hears=[BATCHED])),
            (Shedding(), manifest("shedding", hears=[BATCHED], delivery=shed)),
        ]

    def guest(self, number: int, *, is_broken: bool = False) -> Offer:
        """A version of the guest."""
        return Offer(
            manifest=manifest("guest", hears=[VALID], version=f"1.{number}.0"),
            load=partial(Guest, self.visits, is_broken=is_broken),
        )
