"""Reads a transcript and publishes its segments, at full speed or in real time."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from echo_core import PluginContext, PluginError, Source
from transcript_source.reading import LAST_RESORT, read_transcript
from transcript_source.segments import arrange, gather, is_timed

_LONGEST_SPEECH_S: Final = 60.0
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


class TranscriptSource(Source):
    """Publishes the segments of the transcript at `path`, then one `complete` message a language."""

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._segments: list[dict[str, Any]] = []

    async def init(self, context: PluginContext) -> None:
        """Read the whole transcript; what cannot be read is refused here, before anything is published."""
        await super().init(context)
        self._transcript, self._segments = await context.run_blocking(self._read)

    def _read(self) -> tuple[str, list[dict[str, Any]]]:
        config = self.context.config
        if not config["path"]:
            raise PluginError(
                "no transcript is named", where="config path", fix="set path to a .vtt, .srt or .jsonl file"
            )
        path = Path(config["path"]).expanduser()
        found = read_transcript(path, encoding=config["encoding"], max_bytes=config["max_bytes"])
        logger = self.context.logger()
        if found.encoding == LAST_RESORT and not config["encoding"]:
            logger.warning(
                "%s is not UTF-8, and was read as Windows-1252; set encoding if that is wrong", path
            )
        language = found.language or config["language"]
        entries = [entry if "fault" in entry else {"language": language, **entry} for entry in found.entries]
        segments = arrange(gather(entries, pause_s=config["pause_s"]), transcript=path.stem)
        faults = sum("fault" in segment for segment in segments)
        if not segments:
            logger.warning("%s holds no segments", path)
        logger.info("%s: %s, %d segments, %d faults", path, found.kind, len(segments) - faults, faults)
        return path.stem, segments

    async def produce(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the segments in order of time; with a `speed`, each when it has been spoken."""
        languages = dict.fromkeys(
            segment["language"]
            for segment in self._segments
            if is_timed(segment) and _LANGUAGE.fullmatch(str(segment["language"]))
        )
        wait = self._pace()
        for segment in self._segments:
            await wait(segment)
            self.context.record_counter("transcript.segments", attributes={"faulty": "fault" in segment})
            yield segment
        for language in languages:
            yield {"transcript": self._transcript, "language": language, "complete": True}

    def _pace(self) -> Callable[[dict[str, Any]], Awaitable[None]]:
        """Waits until a segment has been spoken, counted from now and from the transcript's time 0.

        A segment that claims to last longer than a minute is taken to have been spoken after one: a wrong
        end must not hold back everything that comes after it.
        """
        speed, began = self.context.config["speed"], self._monotonic()

        async def wait(segment: dict[str, Any]) -> None:
            if speed and is_timed(segment):
                spoken = min(segment["end"], segment["start"] + _LONGEST_SPEECH_S)
                ahead = spoken / speed - (self._monotonic() - began)
                if ahead > 0:
                    await self._sleep(ahead)

        return wait


def create_plugin() -> TranscriptSource:
    """The entry point named in manifest.json."""
    return TranscriptSource()
