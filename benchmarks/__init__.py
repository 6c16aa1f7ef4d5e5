"""Echo Core measured beside what people would use instead. `make bench`; docs/benchmarks has the results."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository; programs of the benchmarks run from here."""
