from pathlib import Path
from typing import Any

import pytest
from language_router import create_plugin

from echo_core import Outcome
from echo_core.testing import PluginHarness, async_test, check_plugin_contract


async def routed(language: Any, **config: Any) -> list[str]:
    """The topics that a caption in this language goes to."""
    data = {"caption": "c-1", "text": "hello", "language": language}
    async with PluginHarness(create_plugin(), config=config) as harness:
        await harness.handle(data)
        assert all(published == data for published in harness.data)
        return [publication.topic for publication in harness.published]


@async_test
async def test_every_language_has_a_topic_of_its_own() -> None:
    assert await routed("en") == ["captions.en"]
    assert await routed("pt-BR") == ["captions.pt-BR"]


@pytest.mark.parametrize("language", ["", "a.b", "english!", None, 3, "#"])
@async_test
async def test_what_is_no_language_goes_to_the_default(language: Any) -> None:
    assert await routed(language) == ["captions.other"]
    assert await routed(language, default="en") == ["captions.en"]


@async_test
async def test_with_a_list_only_its_languages_have_topics() -> None:
    known = {"languages": ["en", "de-CH"], "default": "rest"}
    assert await routed("en-GB", **known) == ["captions.en"]
    assert await routed("EN", **known) == ["captions.en"]
    assert await routed("de-ch", **known) == ["captions.de-CH"]
    assert await routed("de", **known) == ["captions.rest"]


@async_test
async def test_without_a_default_unknown_languages_end_and_are_counted_as_filtered() -> None:
    async with PluginHarness(create_plugin(), config={"languages": ["en"], "default": ""}) as harness:
        status = await harness.handle({"language": "de"})
    assert (status.outcome, harness.published) == (Outcome.FILTERED, [])


@async_test
async def test_data_that_is_no_object_goes_to_the_default() -> None:
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle("text")
    assert [publication.topic for publication in harness.published] == ["captions.other"]


@async_test
async def test_it_keeps_what_every_plugin_promises() -> None:
    manifest = Path(__file__).parents[1] / "manifest.json"
    await check_plugin_contract(create_plugin, manifest, samples=[{"language": "en"}, {}])
