import pytest
from echo_core import PublishRefused
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


@pytest.mark.parametrize(
    ("language", "topic"),
    [("en", "text.out.en"), ("pt-BR", "text.out.pt-BR"), ("two words", "text.out.other")],
)
@async_test
async def test_a_record_goes_unchanged_to_the_topic_of_its_language(language: str, topic: str) -> None:
    record = {"language": language, "text": "Good morning."}
    async with PluginHarness(create_plugin()) as harness:
        await harness.handle(record)
        assert [(topic, message.data) for topic, message in harness.published] == [(topic, record)]


@async_test
async def test_a_record_without_a_language_goes_to_the_others() -> None:
    async with PluginHarness(create_plugin(), config={"otherwise": "unknown"}) as harness:
        await harness.handle({"text": "Good morning."})
        assert [topic for topic, _ in harness.published] == ["text.out.unknown"]


@async_test
async def test_a_prefix_outside_the_publications_is_refused() -> None:
    async with PluginHarness(create_plugin(), config={"prefix": "elsewhere"}) as harness:
        with pytest.raises(PublishRefused, match=r"elsewhere\.en"):
            await harness.handle({"language": "en", "text": "Good morning."})
