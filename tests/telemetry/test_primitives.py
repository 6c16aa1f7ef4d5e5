"""What is written twice does the same twice: in Python, and in C where this is a compiled installation."""

import importlib
import importlib.util
import math
import random
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar, copy_context
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common_telemetry import compiled
from common_telemetry.engines import fast as package

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


def implementations(name: str) -> Iterator[ModuleType]:
    """The module in Python, and in C if this is a compiled installation."""
    full_name = f"{package.__name__}.{name}"
    found = compiled.SourceFinder.find_spec(full_name, list(package.__path__))
    if found is not None and found.loader is not None:
        pure = importlib.util.module_from_spec(found)
        found.loader.exec_module(pure)
        yield pure
    yield importlib.import_module(full_name)


def kind_of(module: ModuleType) -> str:
    return "pure" if str(module.__file__).endswith(".py") else "C"


IMPLEMENTATIONS = list(implementations("primitives"))


@pytest.fixture(params=IMPLEMENTATIONS, ids=kind_of)
def twin(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_ids_are_random_and_as_long_as_they_must_be(twin: Any) -> None:
    ids = {twin.new_trace_id() for _ in range(1_000)}
    assert {len(one) for one in ids} == {16}
    assert len(ids) == 1_000
    ids = {twin.new_span_id() for _ in range(1_000)}
    assert {len(one) for one in ids} == {8}
    assert len(ids) == 1_000


def test_each_bit_of_an_id_comes_about_as_often_as_not(twin: Any) -> None:
    number = 4_000
    ids = [int.from_bytes(twin.new_trace_id()) for _ in range(number)]
    for bit in range(128):
        ones = sum(one >> bit & 1 for one in ids)
        assert abs(ones - number / 2) < 6 * math.sqrt(number / 4)  # one in a thousand million, each


def test_a_header_is_the_w3cs(twin: Any) -> None:
    trace_id, span_id = bytes(range(0xF0, 0x100)), bytes(range(8))
    expected = f"00-{trace_id.hex()}-{span_id.hex()}"
    assert twin.traceparent_of(trace_id, span_id, 1) == f"{expected}-01"
    assert twin.traceparent_of(trace_id, span_id, 0xAB) == f"{expected}-ab"
    assert twin.Stamps(time).traceparent(trace_id, span_id, 0) == f"{expected}-00"


def test_stamps_tell_the_time_of_the_clock_they_are_given(twin: Any) -> None:
    class Stopped:
        def time_ns(self) -> int:
            return 17

        def perf_counter_ns(self) -> int:
            return 4

    stamps = twin.Stamps(Stopped())
    assert (stamps.time_ns(), stamps.perf_counter_ns()) == (17, 4)
    real = twin.Stamps(time)
    before, now, after = time.time_ns(), real.time_ns(), time.time_ns()
    assert before <= now <= after
    before, now, after = time.perf_counter_ns(), real.perf_counter_ns(), time.perf_counter_ns()
    assert before <= now <= after


@given(
    values=st.lists(st.floats(0, 20) | st.sampled_from(BOUNDS), min_size=1, max_size=80),
    before=st.lists(st.floats(0, 20), max_size=4),
    bounds=st.sampled_from([BOUNDS, (), (1.0,), tuple(map(float, range(100)))]),
)
def test_a_run_is_counted_as_its_values_one_by_one(
    values: list[float], before: list[float], bounds: tuple[float, ...]
) -> None:
    total = low = high = 0.5
    counts = [0] * (len(bounds) + 1)
    last: dict[int, int] = {}
    for at, value in enumerate(values):
        total += value
        low, high = min(low, value), max(high, value)
        bucket = sum(bound < value for bound in bounds)
        counts[bucket] += 1
        last[bucket] = at
    for twin in IMPLEMENTATIONS:
        counted = [0] * (len(bounds) + 1)
        assert twin.count_run(bounds, counted, values, 0.5, 0.5, 0.5) == (total, low, high, last)
        assert counted == counts


def test_ids_do_not_depend_on_the_seed_of_others(twin: Any) -> None:
    random.seed(17)
    first = twin.new_trace_id()
    random.seed(17)
    assert twin.new_trace_id() != first


def test_a_place_in_the_context_is_as_the_variable(twin: Any) -> None:
    default, first, second = object(), object(), object()
    variable: ContextVar[object] = ContextVar("variable", default=default)
    slot = twin.ContextSlot(variable)
    counts = [sys.getrefcount(one) for one in (default, first, second)]
    for _ in range(10):
        assert slot.get() is default
        outer = slot.set(first)
        inner = slot.set(second)
        assert slot.get() is variable.get() is second
        slot.reset(inner)
        assert slot.get() is first
        with pytest.raises(ValueError, match="different Context"):
            copy_context().run(slot.reset, outer)
        slot.reset(outer)
    assert slot.get() is variable.get() is default
    del outer, inner
    assert [sys.getrefcount(one) for one in (default, first, second)] == counts


def test_a_place_that_nothing_is_in_raises_as_the_variable(twin: Any) -> None:
    slot = twin.ContextSlot(ContextVar[object]("variable"))
    with pytest.raises(LookupError):
        slot.get()


def test_a_place_may_be_kept_by_anybody(twin: Any) -> None:
    class Kept:
        value: object = None

        def get(self) -> object:
            return self.value

        def set(self, value: object) -> object:
            before, self.value = self.value, value
            return before

        def reset(self, token: object) -> None:
            self.value = token

    slot = twin.ContextSlot(Kept())
    token = slot.set("first")
    assert slot.get() == "first"
    slot.reset(token)
    assert slot.get() is None
