"""Who may import whom: the layers of the architecture, held by reading every import statement."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

# Lowest floor first; a module may import from its own room and the rooms named for it, never above.
VOCABULARY = {
    "echo_core",
    "echo_core._version",
    "echo_core.errors",
    "echo_core.names",
    "echo_core.topics",
    "echo_core.message",
    "echo_core.plugin",
    "echo_core.roles",
    "echo_core.settlement",
    "echo_core.manifest",
    "echo_core.workspace",
}
MAY_IMPORT: dict[str, set[str]] = {
    "common_telemetry": set(),
    "vocabulary": {"common_telemetry"},
    "echo_core.write_ahead": set(),
    "echo_core.transports": {"vocabulary", "echo_core.write_ahead"},
    "echo_core.runtime": {
        "vocabulary",
        "common_telemetry",
        "echo_core.transports",
        "echo_core.write_ahead",
    },
    "echo_core.workshop": {"vocabulary", "echo_core.runtime"},
    "echo_core.testing": {"vocabulary", "common_telemetry", "echo_core.transports", "echo_core.runtime"},
    "echo_core.control": {"vocabulary", "common_telemetry", "echo_core.runtime"},
    "echo_core.cli": {
        "vocabulary",
        "echo_core.workshop",
        "echo_core.runtime",
        "echo_core.control",
        "echo_core.testing",
    },
}
COMPOSITION_ROOT = "echo_core.cli.run"


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """The layer a module belongs to."""
    if module in VOCABULARY or module.startswith("echo_core.roles."):
        return "vocabulary"
    parts = module.split(".")
    return parts[0] if parts[0] == "common_telemetry" else ".".join(parts[:2])


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(path: Path) -> set[str]:
    """What the file imports when it runs; names needed by type checkers alone tie nothing together."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner) for node in ast.walk(tree) if is_for_types_only(node) for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in ("echo_core", "common_telemetry")}


MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if "templates" not in path.relative_to(SOURCE).parts]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    module = module_name(path)
    if module == COMPOSITION_ROOT:
        return
    own = room(module)
    allowed = MAY_IMPORT[own] | {own}
    wrong = {name for name in imported_modules(path) if room(name) not in allowed}
    assert not wrong, f"{module} ({own}) may not import {sorted(wrong)}"


def test_the_rule_sees_a_wrong_import(tmp_path: Path) -> None:
    source = tmp_path / "wrong.py"
    source.write_text("from echo_core.cli import app\nimport common_telemetry.engine\n")
    assert imported_modules(source) == {"echo_core.cli", "common_telemetry.engine"}
    assert room("echo_core.cli.app") not in MAY_IMPORT["echo_core.runtime"]
