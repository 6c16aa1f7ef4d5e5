"""Which opentelemetry-sdk is installed. `make test-sdk SDK=1.39` runs these tests with an older one.

With 1.45 attributes got new rules: maps, None and lists of anything are values too, and a metric has no more
than 2,000 series. The fast engine keeps these rules whatever SDK is beside it, so only with 1.45 and later
can everything be compared.
"""

from importlib.metadata import version
from typing import Final

import pytest

VERSION: Final = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])
EXTENDED: Final = VERSION >= (1, 45)
since_1_45 = pytest.mark.skipif(not EXTENDED, reason="compares with rules the SDK has since 1.45")
