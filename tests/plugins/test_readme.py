"""`plugins/README.md` says what the code does."""

import re
from typing import Any

import msgspec
import pytest

from common_telemetry.catalogue import CATALOGUE
from echo_core import Manifest, Plugin
from echo_core.manifest import PLUGIN_TYPES, Delivery, Timeouts
from echo_core.roles import Role
from echo_core.runtime.states import PluginState
from echo_core.testing import PluginHarness, async_test
from plugins.running import REPOSITORY, WORKSHOP, manifest_of

README = (REPOSITORY / "plugins" / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def first_column(heading: str) -> dict[str, list[str]]:
    """The rows of the table with this heading, by the code in their first column."""
    table = README.split(f"\n{heading}\n", 1)[1].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in row.strip("| ").split("|")] for row in table.split("\n")[1:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_every_key_of_a_manifest_is_explained_with_its_default() -> None:
    explained = first_column("| key | default | meaning |")
    fields = {field.name: field for field in msgspec.structs.fields(Manifest)}
    nested: dict[str, Any] = {"delivery": Delivery, "timeouts": Timeouts}
    keys = set(fields) - set(nested)
    for name, struct in nested.items():
        for field in msgspec.structs.fields(struct):
            keys.add(f"{name}.{field.name}")
            shown = explained[f"{name}.{field.name}"][0].strip("`")
            assert shown == (str(field.default) or "none")
    assert set(explained) == keys
    required = {name for name, (default, _) in explained.items() if default == "required"}
    assert required == {name for name, field in fields.items() if field.required}


def test_every_metric_that_comes_by_itself_is_listed_with_kind_and_unit() -> None:
    listed = first_column("| metric | kind, unit | attributes besides `plugin.*` | meaning |")
    assert {name: row[0] for name, row in listed.items()} == {
        metric.name: f"{metric.kind}, {metric.unit}" for metric in CATALOGUE
    }


def test_every_state_is_in_the_diagram() -> None:
    diagram = README.split("## The life of a plugin", 1)[1].split("```")[1]
    assert [state.name for state in PluginState if state.name not in diagram] == []


def test_every_example_plugin_is_listed_with_its_topics() -> None:
    rows = first_column("| plugin | type | hears | says | does |")
    listed = {re.sub(r"\[(\w+)\].*", r"\1", name): row for name, row in rows.items()}
    assert set(listed) == {path.parent.name for path in WORKSHOP.glob("*/manifest.json")}
    for name, (kind, hears, says, _) in listed.items():
        manifest = manifest_of(name)
        assert kind == manifest.plugin_type
        assert (hears.strip("`"), says.strip("`")) == (
            "".join(manifest.subscriptions),
            "".join(manifest.publications),
        )


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.split("class ")[1].split("(")[0])
@async_test
async def test_each_minimal_example_does_what_its_type_says(source: str) -> None:
    scope: dict[str, Any] = {}
    exec(source, scope)  # noqa: S102 (the README's own code)
    (plugin,) = [
        value() for value in scope.values()
        if isinstance(value, type) and issubclass(value, Plugin) and value.__module__ == "builtins"
    ]  # fmt: skip
    kind = type(plugin).__mro__[1].__name__.lower()
    manifest = Manifest(
        name="example",
        version="1.0.0",
        description="from the README",
        entry_point="create_plugin",
        plugin_type=kind,
        subscriptions=() if kind == "source" else ("in",),
        publications=("captions.en",),
        config={"min_length": 3, "start": 2},
    )
    async with PluginHarness(plugin, manifest=manifest) as harness:
        if kind == "source":
            await harness.run_source()
        else:
            await harness.handle({"text": "hello", "language": "en"})
    made = {"source": 2, "sink": 0}.get(kind, 1)
    assert len(harness.published) == made


def test_there_is_an_example_of_each_type() -> None:
    bases = {re.search(r"class \w+\((\w+)\)", source).group(1).lower() for source in EXAMPLES}  # type: ignore[union-attr]
    assert bases == set(PLUGIN_TYPES)
    assert {role.__name__.lower() for role in Role.__subclasses__()} >= bases
