"""A canary without a host and without a clock: who gets which message, and in what order they are begun.

Lanes, keys and the window are as in `Trial`; handlers take no time. A message that fails blocks its lane for
so many steps: many are a fast machine, on which the rest races on.
"""

import random
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from echo_core.runtime.upgrade.splitter import part_of
from echo_core.runtime.upgrade.verdict import Failures, Tally

Fails = Callable[[str, random.Random], bool]
"""Whether a message fails at its first attempt: its key, and chance."""


@dataclass
class Version:
    """One side of it."""

    fails: Fails
    lanes: int
    window: int
    """Messages in the lanes at a time, at most."""
    inbox: deque[str] = field(default_factory=deque)
    queues: list[deque[str]] = field(init=False)
    blocked: list[int] = field(init=False)
    """Until which step a lane is."""
    received: int = 0
    failed: int = 0

    def __post_init__(self) -> None:
        self.queues = [deque() for _ in range(self.lanes)]
        self.blocked = [0] * self.lanes

    def step(self, now: int, blocks: int, chance: random.Random) -> list[str]:
        """Begin what can be begun; the keys of what failed."""
        failed: list[str] = []
        while True:
            while (
                self.inbox and sum(map(len, self.queues)) + sum(t > now for t in self.blocked) < self.window
            ):
                key = self.inbox.popleft()
                self.queues[zlib.crc32(key.encode()) % self.lanes].append(key)
            free = [n for n, queue in enumerate(self.queues) if queue and self.blocked[n] <= now]
            if not free:
                return failed
            for number in free:
                key = self.queues[number].popleft()
                self.received += 1
                if self.fails(key, chance):
                    self.blocked[number] = now + blocks
                    failed.append(key)
                    self.failed += 1

    def tally(self, more: int = 0) -> Tally:
        return Tally(self.received, self.received, self.received + more, self.failed, 0, 0)


def canary(
    chance: random.Random,
    *,
    old: Fails,
    new: Fails,
    keys: int = 0,
    percent: float = 10.0,
    lanes: int = 1,
    messages: int = 3_000,
    blocks: int = 0,
    asks: bool = True,
) -> tuple[int, int]:
    """How many messages a new version was given when it was sent back, or 0; and how many it failed at.

    `keys`: so many ordering keys, or each message its own. `asks`: whether what failed is at hand to ask the
    old version about it; it is not where it was answered with FAILED.
    """
    was, is_new = Version(old, lanes, 1_000), Version(new, lanes, 16)
    failures = Failures()
    below = round(percent * 100)
    asked = now = given = 0
    salt = chance.random()
    while given < messages:
        now += 1
        if len(was.inbox) + len(is_new.inbox) < 64:
            given += 1
            key = f"{salt} {chance.randrange(keys) if keys else given}"
            (is_new if part_of(key) < below else was).inbox.append(key)
        else:  # nobody gets anything before a lane is free again
            now = min((t for t in (*was.blocked, *is_new.blocked) if t > now), default=now)
        was.step(now, blocks, chance)
        for key in is_new.step(now, blocks, chance):
            failures.add(part_of(key))
            if not failures.are_suspect(was.tally(), is_new.tally(asked)):
                continue
            if asks:
                fails_too = old(key, chance)
                was.received += 1
                was.failed += fails_too
                failures.asked([part_of(key)], [part_of(key)] if fails_too else [])
                if fails_too:
                    continue
            if failures.why_worse(was.tally(), is_new.tally(asked)):
                return is_new.received, is_new.failed
    return 0, is_new.failed
