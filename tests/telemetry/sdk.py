"""Which opentelemetry-sdk is installed. `make test-sdk SDK=1.39` runs these tests with an older one.

1.45 changed what an attribute may be (maps, None and lists of anything too), which of them are one series,
how many series there may be, and which limits hold for log records. The fast engine keeps these with any
SDK beside it, so only with 1.45 and later can everything be compared with the SDK.
"""

from importlib.metadata import version
from typing import Final

import pytest

VERSION: Final = tuple(int(part) for part in version("opentelemetry-sdk").split(".")[:2])
since_1_45 = pytest.mark.skipif(VERSION < (1, 45), reason="compares with rules the SDK has since 1.45")
