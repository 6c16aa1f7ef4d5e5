"""Whether a canary does worse than the version that runs: by counts that are kept anyway, and by statistics.

Four criteria. Each is a test of the hypothesis that the new version does as well as the old one, repeated at
every look. So that looking often does not condemn by chance, look number k may err with probability
`ERROR / (k (k + 1))` only, which sums up to `ERROR` however often one looks (a union bound).

- attempts that fail: Fisher's exact test, one-sided (R. A. Fisher, 1922), on failed and other attempts.
- handling time: as many of the new version's times as the binomial tail allows may lie above the old one's
  95th percentile, where one in twenty should; half as long again, and a millisecond, are no matter.
- output: given all outputs of both, those of the new version are binomial in its share of the messages;
  two-sided, and a fifth more or less is no matter.
- refused publications: one is enough, unless the old version has them too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

ERROR: Final = 0.01
"""The probability that a version which does as well is sent back, for each criterion."""
_SLOWER: Final = 1.5
_SLOWER_S: Final = 0.001
_TAIL: Final = 0.05
_OTHER_OUTPUT: Final = 1.2


@dataclass(frozen=True, slots=True)
class Tally:
    """What one version has done since the two stand side by side."""

    ended: int
    """Messages: processed, filtered or dead-lettered."""
    succeeded: int
    """Attempts."""
    failed: int
    """Attempts."""
    published: int
    refused: int
    """Publications outside the manifest's."""
    times: Sequence[float] = ()
    """Recent handling times, in seconds."""

    @property
    def attempts(self) -> int:
        """All that have ended, well or not."""
        return self.succeeded + self.failed


def why_worse(old: Tally, new: Tally, look: int) -> str:
    """What the new version does worse, as a sentence with its figures; empty while nothing is proved.

    `look` counts from 1.
    """
    level = ERROR / (look * (look + 1))
    return (
        _refuses(old, new)
        or _fails(old, new, level)
        or _is_slow(old, new, level)
        or _says_other(old, new, level)
    )


def _refuses(old: Tally, new: Tally) -> str:
    if new.refused and not old.refused:
        return f"it published outside its publications, {new.refused} time(s); the old version never does"
    return ""


def _fails(old: Tally, new: Tally, level: float) -> str:
    attempts = new.attempts
    if not new.failed:
        return ""
    p = hypergeometric_tail(
        new.failed, attempts, old.failed + new.failed, attempts + old.failed + old.succeeded
    )
    if p >= level:
        return ""
    before = f"{old.failed} of {old.failed + old.succeeded}"
    return f"{new.failed} of {attempts} attempts failed, against {before} (p = {p:.1g})"


def _is_slow(old: Tally, new: Tally, level: float) -> str:
    if not old.times or not new.times:
        return ""
    p95 = sorted(old.times)[min(len(old.times) - 1, int(0.95 * len(old.times)))]
    limit = max(_SLOWER * p95, p95 + _SLOWER_S)
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
    if not total or not old.ended or not new.ended:
        return ""
    share = new.ended / (new.ended + old.ended)
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
        f"it published {new.published / new.ended:.3g} for each message,"
        f" against {old.published / old.ended:.3g} (p = {p:.1g})"
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
