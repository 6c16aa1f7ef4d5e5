"""The plugin contract, over both tiers: what a host may rely on holds for a plugin in its own process too."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from echo_core import Plugin
from echo_core.runtime.settings import Tier
from echo_core.testing import PluginHarness
from echo_core.testing.plugin_contract import PLUGIN_CHECKS, PluginCheck, Subject
from runtime.isolation.tiers import TIERS, Tiers

TRANSFORMER = """
    from echo_core import Transformer

    class Shout(Transformer):
        async def transform(self, message):
            return message.data["text"].upper()

    def create_plugin():
        return Shout()
"""
SOURCE = """
    from echo_core import Source

    class Counter(Source):
        async def produce(self):
            number = 0
            while True:
                yield number
                number += 1

    def create_plugin():
        return Counter()
"""


async def checked(check: Awaitable[None]) -> None:
    await check


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("check", PLUGIN_CHECKS, ids=lambda check: check.__name__)
def test_a_plugin_keeps_the_contract(tmp_path: Path, tier: Tier, check: PluginCheck) -> None:
    tiers = Tiers(tmp_path, tier)
    library = tiers.library(TRANSFORMER)
    subject = Subject(
        create_plugin=lambda: tiers.plugin(library),
        manifest=library.manifest,
        samples=({"text": "a"}, {"no": "text"}),
    )
    asyncio.run(checked(check(subject)))


@pytest.mark.parametrize("tier", TIERS)
def test_a_source_keeps_the_contract(tmp_path: Path, tier: Tier) -> None:
    tiers = Tiers(tmp_path, tier)
    library = tiers.library(SOURCE, plugin_type="source", subscriptions=[])
    for check in (PLUGIN_CHECKS[7], PLUGIN_CHECKS[8]):  # what it leaves behind when it is stopped
        subject = Subject(create_plugin=lambda: tiers.plugin(library), manifest=library.manifest)
        asyncio.run(checked(check(subject)))


@pytest.mark.parametrize("tier", TIERS)
def test_a_harness_runs_it(tmp_path: Path, tier: Tier) -> None:
    tiers = Tiers(tmp_path, tier)
    library = tiers.library(TRANSFORMER)

    async def main(plugin: Plugin) -> None:
        async with PluginHarness(plugin, manifest=library.manifest) as harness:
            await harness.handle({"text": "hello"})
            assert harness.data == ["HELLO"]
            with pytest.raises(Exception, match="text"):
                await harness.handle({})
            assert await plugin.health_check() is True

    asyncio.run(main(tiers.plugin(library)))
