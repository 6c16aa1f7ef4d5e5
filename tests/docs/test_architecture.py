"""`docs/architecture.md` names what is there: whoever moves it moves its mention too."""

import re
from pathlib import Path

from echo_core.runtime.batch import BatchLane
from echo_core.runtime.context import AT_ONCE, HostContext
from echo_core.runtime.dispatch import Dispatcher
from echo_core.runtime.lane import BATCH, Lane
from echo_core.runtime.lanes import Sorter
from echo_core.runtime.settlement import Settlements
from echo_core.runtime.shedding import Shedder
from echo_core.transports.base import Delivery
from echo_core.transports.memory import _IN_A_ROW, MemoryTransport
from echo_core.transports.pressure import Pressure
from echo_core.transports.turn import _ROUND_S, Turn, Waiter

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
CLASSES = {
    kind.__name__: kind
    for kind in (
        *(BatchLane, Delivery, Dispatcher, HostContext, Lane, MemoryTransport),
        *(Pressure, Settlements, Shedder, Sorter, Turn, Waiter),
    )
}


def test_each_file_that_it_names_is_there() -> None:
    named = re.findall(r"`((?:runtime|transports)/\w+\.py)`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "src" / "echo_core" / name).is_file()] == []


def test_each_class_and_method_that_it_names_is_there() -> None:
    named = re.findall(r"`([A-Z]\w+)(?:\.(\w+))?`", TEXT)
    methods = [(CLASSES[kind], method) for kind, method in named if kind in CLASSES]
    assert {kind for kind, _ in methods} == set(CLASSES.values())
    assert [f"{kind.__name__}.{name}" for kind, name in methods if name and not hasattr(kind, name)] == []
    alone = (
        "_send",
        "_find_subscribers",
        "_publish_in_a_crowd",
        "_conclude",
        "_judge_cancellation",
        "_recover",
    )
    for name in (*alone, "leave", "abandon", "_goes_back", "_settle", "_keep", "withdraw"):
        assert f"`{name}`" in TEXT
        assert any(hasattr(kind, name) for kind in CLASSES.values()), name


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"up to {BATCH} deliveries" in TEXT
    assert f"every {_IN_A_ROW}th publication, every {AT_ONCE:,} of a batch" in TEXT
    assert f"worked off for {_ROUND_S * 1_000:g} ms" in TEXT
