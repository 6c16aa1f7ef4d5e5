from typing import Any

import pytest
from echo_core import ProcessingStatus
from echo_core.testing import PluginHarness, async_test

from my_plugin import create_plugin


@async_test
async def test_a_complete_record_goes_on_unchanged() -> None:
    record = {"language": "en", "text": "Good morning.", "number": 1}
    async with PluginHarness(create_plugin()) as harness:
        assert await harness.handle(record) == ProcessingStatus.ACKNOWLEDGED
        assert harness.data == [record]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"language": "en"}, "missing or empty: text"),
        ({"language": None, "text": ""}, "missing or empty: language, text"),
        ("just text", "the data is no object, but str"),
    ],
)
@async_test
async def test_an_incomplete_record_is_stopped_with_the_reason(record: Any, reason: str) -> None:
    async with PluginHarness(create_plugin()) as harness:
        assert await harness.handle(record) == ProcessingStatus.FAILED(reason)
        assert harness.data == []


@async_test
async def test_the_required_fields_can_be_configured() -> None:
    async with PluginHarness(create_plugin(), config={"required": ["number"]}) as harness:
        assert await harness.handle({"number": 0}) == ProcessingStatus.ACKNOWLEDGED
