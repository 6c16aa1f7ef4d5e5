"""Compiled modules, where an installation has them, can be turned off; a checkout has none."""

import subprocess
import sys
from pathlib import Path

import pytest

from common_telemetry import compiled

ROOT = Path(__file__).parents[2]
HOT = "common_telemetry.engines.fast.primitives"


def file_of(module: str, wanted: str) -> str:
    program = f"import {module} as module; print(module.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), compiled.VARIABLE: wanted},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_the_variable_has_python_run_the_sources() -> None:
    assert file_of(HOT, "no").endswith("primitives.py")


def test_compiled_modules_are_used_unless_it_says_no() -> None:
    if not compiled.modules():
        pytest.skip("nothing is compiled here; see make test-compiled")
    assert HOT in compiled.modules()
    assert not file_of(HOT, "auto").endswith(".py")


def test_what_is_compiled_has_its_source_in_python() -> None:
    declared = list((ROOT / "src").rglob("*.pxd"))
    assert declared
    assert [file for file in declared if not file.with_suffix(".py").exists()] == []
