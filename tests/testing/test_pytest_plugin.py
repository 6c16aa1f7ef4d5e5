import json
import subprocess
import sys
from pathlib import Path

A_TEST = """
from echo_core import Filter
from echo_core.testing import async_test

class Mine(Filter):
    async def keep(self, message):
        return message.data != "drop"

@async_test
async def test_with_the_fixture(plugin_harness):
    async with plugin_harness(Mine(), config={"changed": 2}) as harness:
        await harness.handle("keep")
        await harness.handle("drop")
        assert harness.data == ["keep"]
        assert dict(harness.context.config) == {"kept": 1, "changed": 2}
"""


def test_the_fixture_runs_a_plugin_with_the_manifest_of_the_folder_of_the_test(tmp_path: Path) -> None:
    manifest = {
        "name": "beside_the_test",
        "version": "0.1.0",
        "description": "Found.",
        "entry_point": "create_plugin",
        "subscriptions": ["in"],
        "publications": ["out"],
        "config": {"kept": 1, "changed": 1},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text(A_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_every_start_of_pytest_is_spared_what_only_a_host_needs() -> None:
    heavy = (
        "opentelemetry.sdk",
        "opentelemetry.exporter",
        "grpc",
        "jsonschema",
        "cyclopts",
        "rich",
        "google",
    )
    script = f"""
import sys, echo_core.testing.pytest_plugin
print([name for name in sys.modules if name.startswith({heavy!r})])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "[]"
