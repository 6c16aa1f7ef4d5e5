import json
import subprocess
import sys

import pytest
from benchmarks.programs import latency, memory, process, queues, scaling

from benchmarks import ROOT


@pytest.mark.parametrize("engine", ["off", ""])
@pytest.mark.parametrize("shape", scaling.SHAPES)
def test_every_curve_has_a_pipeline_that_handles_all_it_is_given(
    shape: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scaling.main([shape, "4", "--seconds=0.02", f"--engine={engine}"])
    found = json.loads(capsys.readouterr().out)
    assert found["messages"] > 0
    assert found["cpu_us"] > 0


def test_queues_by_hand_handle_all_they_are_given(capsys: pytest.CaptureFixture[str]) -> None:
    queues.main(["4", "--seconds=0.02"])
    found = json.loads(capsys.readouterr().out)
    assert found["messages"] > 0
    assert found["cpu_us"] > 0


def test_each_of_three_hops_of_every_message_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    latency.main(["--rate=5000", "--count=100", "--engine=off"])
    found = json.loads(capsys.readouterr().out)
    assert found["hops"] == 300
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_memory_is_looked_at_ten_times(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--messages=200", "--engine=off"])
    found = json.loads(capsys.readouterr().out)
    assert found["messages"] == 200
    assert len(found["resident_bytes"]) == 10


def test_the_host_says_once_that_all_its_plugins_are_running() -> None:
    command = [sys.executable, "-m", "benchmarks.programs.start", "--plugins=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "running\n"


def test_a_plugin_in_its_own_process_is_measured_on_both_sides(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_UNTIL_SPARE_S", 0.0)
    process.main(["--count=300", "--kills=1"])
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["plugin"], one["engine"], one["batch_size"]) for one in found] == [
        (kind, engine, batch)
        for kind in ("sink", "transformer")
        for engine in ("off", "fast")
        for batch in (1, 64)
    ]
    for one in found:
        assert one["host_us"] > 0
        assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert one["ready_again_ms"][0] > 0
