"""Which tests of a run with two workers stay together: those of a file, which share what they set up."""

from typing import Final

from xdist.scheduler import LoadScopeScheduling

APART: Final = frozenset(
    f"tests/{name}.py"
    for name in (
        "faults/test_brokers",
        "faults/test_processes",
        "plugins/test_workshop",
        "runtime/isolation/test_saboteurs",
        "transports/test_brokers",
        "workshop/test_build",
        "workshop/test_dependencies",
    )
)
"""Files of long tests that share nothing, so that no worker is left with a whole file at the end."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Hands out whole files, in the order that the tests were shuffled to; and of some, test by test."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in APART else file
