import pytest
from benchmarks.profile import Frame, purpose_of, read_samples

from benchmarks import ROOT

RUN = f"run ({ROOT}/benchmarks/peers/echo_core.py:66)"
LANE = f"Lane._handle ({ROOT}/src/echo_core/runtime/lane.py:107)"
SDK = "start_span (/v/lib/python3.11/site-packages/opentelemetry/sdk/trace/__init__.py:9)"


def test_a_frame_is_known_by_whose_code_it_is() -> None:
    assert Frame.parse(LANE).room == "echo_core.runtime.lane"
    assert Frame.parse(SDK).room == "opentelemetry"
    assert Frame.parse("wait (/usr/lib/python3.11/asyncio/tasks.py:1)").room == "asyncio"
    assert Frame.parse("wait (/usr/lib/python3.11/threading.py:1)").room == "standard library"
    assert Frame.parse(RUN).room == "the benchmark"


def test_time_in_a_library_counts_for_the_library_and_for_our_function_that_called_it() -> None:
    samples = read_samples(
        [f"thread (1): MainThread;{RUN};{LANE};{SDK} 3", f"thread (1): MainThread;{RUN};{LANE} 1"]
    )
    assert samples.total == 4
    assert samples.rooms == {"opentelemetry": 3, "echo_core.runtime.lane": 1}
    assert samples.functions == {"echo_core.runtime.lane: Lane._handle": 4}


def test_imports_and_what_the_main_thread_does_before_and_after_the_run_do_not_count() -> None:
    elsewhere = f"main ({ROOT}/benchmarks/job.py:80)"
    samples = read_samples(
        [
            f"thread (1): MainThread;{elsewhere} 5",
            f"thread (1): MainThread;{RUN};_find_and_load (<frozen importlib._bootstrap>:1);{SDK} 7",
            f"thread (2): OtelBatchSpanProcessor;{SDK} 2",
        ]
    )
    assert samples.total == 2


@pytest.mark.parametrize(
    ("room", "words"),
    [
        ("echo_core.runtime.lane", "dispatch"),
        ("echo_core.transports.memory", "publication"),
        ("common_telemetry.engines.fast.measuring", "measurements"),
        ("common_telemetry.engines.fast.buffer", "export"),
        ("common_telemetry.engines.fast.messages", "spans"),
        ("common_telemetry.engines.off", "spans"),
        ("the benchmark", "the plugins"),
        ("numpy", "everything else"),
    ],
)
def test_the_time_of_a_module_is_for_something(room: str, words: str) -> None:
    assert purpose_of(room).startswith(words)
