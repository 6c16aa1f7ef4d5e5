import pytest
from echo_core import ProcessingStatus
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


@async_test
async def test_the_text_is_changed_and_the_rest_of_the_record_stays() -> None:
    async with PluginHarness(create_plugin()) as harness:
        status = await harness.handle({"language": "en", "text": "  good\n morning "})
        assert status == ProcessingStatus.ACKNOWLEDGED
        assert harness.data == [{"language": "en", "text": "GOOD MORNING"}]
        assert [topic for topic, _ in harness.published] == ["text.ready"]


@pytest.mark.parametrize(
    ("case", "text"), [("keep", "Good MORNING"), ("lower", "good morning"), ("title", "Good Morning")]
)
@async_test
async def test_the_case_can_be_configured(case: str, text: str) -> None:
    async with PluginHarness(create_plugin(), config={"field": "title", "case": case}) as harness:
        await harness.handle({"title": "Good MORNING"})
        assert harness.data == [{"title": text}]


@async_test
async def test_a_record_without_the_text_fails() -> None:
    async with PluginHarness(create_plugin()) as harness:
        with pytest.raises(KeyError, match="text"):
            await harness.handle({"language": "en"})
