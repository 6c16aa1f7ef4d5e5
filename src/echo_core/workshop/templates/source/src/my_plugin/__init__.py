"""Publishes the records of a JSON Lines file, or sample records."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from echo_core import PluginError, Source

SAMPLES = (
    {"language": "en", "text": "The ferry leaves at  half past six."},
    {"language": "de", "text": "Das Brot ist noch warm."},
    {"language": "en", "text": "Oh"},
    {"language": "fr", "text": "Il pleut sur le pont."},
)


class MyPlugin(Source):
    """Yields one record at a time; the next is asked for when the last one was accepted."""

    async def produce(self) -> AsyncIterator[dict[str, Any]]:
        path, samples = self.context.config["path"], self.context.config["samples"]
        records = read_records(Path(path)) if path else sample_records(samples)
        while (record := await self.context.run_blocking(next, records, None)) is not None:
            yield record


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Each line's JSON object; blank lines are skipped, any other line raises `PluginError`."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield parse_record(line, where=f"{path}:{number}")


def parse_record(line: str, where: str) -> dict[str, Any]:
    """The JSON object in the line."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise PluginError("the line is not JSON", where=where, why=str(error), fix="mend the line") from error
    if not isinstance(record, dict):
        raise PluginError("the line is no JSON object", where=where, fix='write {"text": "..."}')
    return record


def sample_records(count: int) -> Iterator[dict[str, Any]]:
    """The samples over and over, numbered from 1."""
    for number in range(1, count + 1):
        yield {"number": number, **SAMPLES[(number - 1) % len(SAMPLES)]}


def create_plugin() -> MyPlugin:
    """The entry point: the host calls it once for each plugin that it loads."""
    return MyPlugin()
