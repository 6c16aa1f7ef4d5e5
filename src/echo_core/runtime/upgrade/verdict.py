"""Whether a canary does worse than the version that runs: by counts that are kept anyway, and by statistics.

Four criteria. Each is a test of the hypothesis that the new version does as well as the old one, repeated at
every look. So that looking often does not condemn by chance, look number k may err with probability
`ERROR / (k (k + 1))` only, which sums up to `ERROR` however often one looks (a union bound).

- failures: Fisher's exact test, one-sided (R. A. Fisher, 1922), on the messages whose first attempt failed
  and the others. Not on attempts: a message that always fails is one misfortune, however often it is tried.
  Looked at whenever one more has failed (`Failures`).
- handling time: as many of the new version's times as the binomial tail allows may lie above the old one's
  95th percentile, where one in twenty should; half as long again, and a millisecond, are no matter. Nor is
  the way to a process of its own (`WAY_S`), where the old version has none: that is what was asked for.
- output: given all outputs of both, those of the new version are binomial in its share of the messages that
  went well; two-sided, and a fifth more or less is no matter.
- refused publications: one is enough, unless the old version has them too.

What the test of failures supposes is that messages fail independently. They do not where a key fails: its
messages stay with one version. So a version is not sent back for what it failed at before the old one was
asked to handle the same messages: what that fails at too speaks against neither, and no more does its key.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

ERROR: Final = 0.01
"""The probability that a version which does as well is sent back, for each criterion."""
_FEW: Final = 2
"""A version is not sent back for less than so many messages that fail."""
_ODD: Final = 0.2
"""While it fails at all that it is given, the old version is asked when that is less probable by chance."""
_OF_A_KEY: Final = 3
"""Messages of a key that count, before the old version was asked to handle one of that key."""
_SLOWER: Final = 1.5
_SLOWER_S: Final = 0.001
WAY_S: Final = 0.02
"""What the way to a process and back may take, at the 95th percentile, on a machine that is very busy."""
_TAIL: Final = 0.05
_OTHER_OUTPUT: Final = 1.2


@dataclass(frozen=True, slots=True)
class Tally:
    """What one version has done since the two stand side by side."""

    ended: int
    """Messages: processed, filtered or dead-lettered."""
    succeeded: int
    """Of those, processed or filtered."""
    received: int
    """Messages: those ended, and those in hand."""
    failed: int
    """Of those received, how many failed at the first attempt."""
    published: int
    refused: int
    """Publications outside the manifest's."""
    times: Sequence[float] = ()
    """Recent handling times, in seconds."""


class Failures:
    """The messages that the new version failed at, and whether they are more than chance allows."""

    def __init__(self) -> None:
        self._failed: Counter[int] = Counter()
        self._excused: set[int] = set()
        self._confirmed: set[int] = set()
        self._done_well = self._asked = 0
        self.looks = 0

    def add(self, part: int) -> None:
        """One more message failed at its first attempt; `part` is its key's, or its own (`part_of`)."""
        self._failed[part] += 1
        self.looks += 1

    def take_back(self, part: int) -> None:
        """It was another message than the one that was added last."""
        self._failed[part] -= 1
        self.looks -= 1

    def asked(self, parts: Sequence[int], failed: Sequence[int]) -> None:
        """The old version was given messages that the new one failed at, and failed at these too."""
        self._excused.update(failed)
        self._confirmed.update(set(parts) - set(failed))
        self._asked += len(parts)
        self._done_well += len(parts) - len(failed)

    def count(self) -> int:
        """How many, without those of keys that the old version fails at too."""
        return sum(count for part, count in self._failed.items() if part not in self._excused)

    def _confirmed_count(self) -> int:
        """Those of a key that the old version was not asked about may have one cause: few of each count."""
        if not self._asked:
            return self.count()
        return sum(
            count if part in self._confirmed else min(count, _OF_A_KEY)
            for part, count in self._failed.items()
            if part not in self._excused
        )

    def are_suspect(self, old: Tally, new: Tally) -> bool:
        """Whether it is time to ask the old version: they are too many, or all there was, and that is odd."""
        failed = self.count()
        if not failed or failed * old.received <= old.failed * new.received:
            return False
        level = _ODD if failed == new.received else self._level
        return _by_chance(failed, old, new) < level

    def why_worse(self, old: Tally, new: Tally) -> str:
        """What the new version does worse, as a sentence with its figures; empty while nothing is proved."""
        failed = self._confirmed_count()
        if failed < _FEW or (p := _by_chance(failed, old, new)) >= self._level:
            return ""
        asked = (
            f"; the old version did {self._done_well} of {self._asked} of them well" if self._asked else ""
        )
        return (
            f"{failed} of {new.received} messages failed at the first attempt,"
            f" against {old.failed} of {old.received} (p = {p:.1g}){asked}"
        )

    @property
    def _level(self) -> float:
        return level(max(1, self.looks))


def level(look: int) -> float:
    """How probable an error may be at look number `look`, from 1."""
    return ERROR / (look * (look + 1))


def _by_chance(failed: int, old: Tally, new: Tally) -> float:
    received = max(failed, new.received)
    return hypergeometric_tail(failed, received, old.failed + failed, old.received + received)


def why_worse(old: Tally, new: Tally, look: int, *, way_s: float = 0.0) -> str:
    """What else the new version does worse, in the same way. `look` counts from 1.

    `way_s`: so many seconds more are no matter, because its messages have farther to go.
    """
    return (
        why_refused(old, new) or _is_slow(old, new, level(look), way_s) or _says_other(old, new, level(look))
    )


def why_refused(old: Tally, new: Tally) -> str:
    """What it published that it may not, as a sentence; empty if it did not."""
    if new.refused and not old.refused:
        return f"it published outside its publications, {new.refused} time(s); the old version never does"
    return ""


def _is_slow(old: Tally, new: Tally, level: float, way_s: float) -> str:
    if not old.times or not new.times:
        return ""
    p95 = sorted(old.times)[min(len(old.times) - 1, int(0.95 * len(old.times)))]
    limit = max(_SLOWER * p95, p95 + _SLOWER_S) + way_s
    above = sum(seconds > limit for seconds in new.times)
    p = binomial_tail(above, len(new.times), _TAIL)
    if p >= level:
        return ""
    return (
        f"{above} of {len(new.times)} messages took longer than {limit * 1_000:.3g} ms,"
        f" against a 95th percentile of {p95 * 1_000:.3g} ms (p = {p:.1g})"
    )


def _says_other(old: Tally, new: Tally, level: float) -> str:
    total = old.published + new.published
    if not total or not old.succeeded or not new.succeeded:
        return ""
    share = new.succeeded / (new.succeeded + old.succeeded)
    expected = total * share
    ratio = new.published / expected
    if 1 / _OTHER_OUTPUT < ratio < _OTHER_OUTPUT:
        return ""
    tail = (
        binomial_tail(new.published, total, share)
        if ratio > 1
        else binomial_tail(total - new.published, total, 1 - share)
    )
    p = min(1.0, 2 * tail)
    if p >= level:
        return ""
    return (
        f"it published {new.published / new.succeeded:.3g} for each message that went well,"
        f" against {old.published / old.succeeded:.3g} (p = {p:.1g})"
    )


def hypergeometric_tail(found: int, drawn: int, marked: int, total: int) -> float:
    """The probability to draw `found` or more of `marked` among `total`, in `drawn` draws."""
    most = min(drawn, marked)
    if found <= max(0, drawn + marked - total):
        return 1.0
    logs = (
        _choose(marked, k) + _choose(total - marked, drawn - k) - _choose(total, drawn)
        for k in range(found, most + 1)
    )
    return _sum(logs)


def binomial_tail(found: int, tries: int, p: float) -> float:
    """The probability of `found` or more successes in so many tries of probability `p`."""
    if found <= 0:
        return 1.0
    if p <= 0 or found > tries:
        return 0.0
    if p >= 1:
        return 1.0
    yes, no = math.log(p), math.log1p(-p)
    return _sum(_choose(tries, k) + k * yes + (tries - k) * no for k in range(found, tries + 1))


def _choose(n: int, k: int) -> float:
    """The logarithm of n over k."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sum(logs: Iterable[float]) -> float:
    """The sum of what these are logarithms of; they rise at most once, then fall for good."""
    total, before = 0.0, -math.inf
    for value in logs:
        term = math.exp(value)
        total += term
        if value < before and term < total * 1e-12:
            break
        before = value
    return min(1.0, total)
