"""What `make bench` measures besides its own parts: the sections that other programs bring.

A section is a module of `benchmarks`, listed in `SECTIONS`, with one function:

    def section(quick: bool, say: Say) -> Found

It measures, in turns, what it compares, and returns the rows of the table of demands, a page in Markdown that
stands below the other tables (from `## ` down), and its figures as data for results.json. It may take three
minutes, or fifteen seconds where `quick`; raise `RunFailed` where it goes wrong: the others go on.
A row that cannot be measured here has `met=None` and a `note` that says why; see `benchmarks.demands.Row`.

`python -m benchmarks.run --only NAME` runs one alone. A contestant that does the three-plugin job is no
section: write a program in `benchmarks/peers/`, and list it in `CONTESTANTS` and in `demands.RATIOS`.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from benchmarks.demands import Row
from benchmarks.measure import Say

SECTIONS: Final = ("durable", "brokers")
"""Modules, in the order in which they run and stand on the page."""
IN_QUICK: Final = frozenset[str]()
"""Those that `make bench-quick` runs too, which has two minutes for all."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a section measured."""

    rows: Sequence[Row]
    page: str
    data: Any


class Section(Protocol):
    """The module."""

    def section(self, quick: bool, say: Say) -> Found:
        """Measure."""


def load(name: str) -> Section:
    """The section's module; imported only when it runs, because it may need what is not installed."""
    module: Section = importlib.import_module(f"benchmarks.{name}")
    return module
