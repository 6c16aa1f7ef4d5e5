"""docs/telemetry.md is held to the code."""

import re
from pathlib import Path
from typing import Any

import pytest

from common_telemetry import TelemetryConfig
from common_telemetry.catalogue import CATALOGUE, Metric

ROOT = Path(__file__).parents[2]
DOCUMENTATION = ROOT / "docs" / "telemetry.md"
README = ROOT / "src" / "common_telemetry" / "README.md"


def table(heading: str) -> list[str]:
    lines = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
    start = lines.index(heading) + 2
    return lines[start : lines.index("", start)]


def row(metric: Metric) -> str:
    carried = ", ".join(f"`{name}`" for name in metric.attributes)
    return f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {metric.description} | {carried} |"


def test_it_lists_the_catalogue() -> None:
    assert table("| metric | kind | unit | what it says | attributes |") == [
        row(metric) for metric in CATALOGUE
    ]


def test_it_lists_every_setting_with_its_default() -> None:
    listed = [
        tuple(cell.strip(" `") for cell in line.split("|")[1:3])
        for line in table("| setting | default | meaning |")
    ]
    defaults = TelemetryConfig()
    expected = [(name, getattr(defaults, name)) for name in TelemetryConfig.__dataclass_fields__]
    assert listed == [(name, toml(value)) for name, value in expected]


def toml(value: object) -> str:
    if isinstance(value, tuple):
        return str(list(value))
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


@pytest.mark.parametrize(("page", "examples"), [(DOCUMENTATION, 3), (README, 1)], ids=["page", "readme"])
def test_the_examples_run(page: Path, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"):
        monkeypatch.delenv(variable, raising=False)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.S)
    assert len(blocks) == examples
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)  # noqa: S102 - our own page
