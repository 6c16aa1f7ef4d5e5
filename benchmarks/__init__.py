"""Echo Core measured beside what people would use instead. `make bench`; docs/benchmarks has the results.

To add a contestant to the three-plugin job: a program in `peers/`, a line in `CONTESTANTS`, one in `RATIOS`.
To add anything else to `make bench`: a section, see `benchmarks.sections`.
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository; programs of the benchmarks run from here."""
