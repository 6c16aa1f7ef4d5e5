"""Reads a transcript and publishes its segments, at full speed or in real time."""

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from echo_core import PluginContext, PluginError, Source
from transcript_source.reading import LAST_RESORT, read_transcript
from transcript_source.segments import arrange, gather, is_timed

_LONGEST_SPEECH_S: Final = 60.0
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


class TranscriptSource(Source):
    """Publishes the segments of the transcript at `path`, then one `complete` message a language.

    Its state is how many of these are published: after a crash it goes on there, unless the transcript is
    another by then.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sleep = sleep
        self._monotonic = monotonic
        self._edition = ""
        self._outputs: list[dict[str, Any]] = []

    async def init(self, context: PluginContext) -> None:
        """Read the whole transcript; what cannot be read is refused here, before anything is published."""
        await super().init(context)
        self._edition, self._outputs = await context.run_blocking(self._read)

    def _read(self) -> tuple[str, list[dict[str, Any]]]:
        """What is to be published, and its edition: a digest, and when the file was last changed."""
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
        outputs = [*segments, *_endings(path.stem, segments)]
        content = hashlib.blake2b(json.dumps(outputs).encode(), digest_size=6).hexdigest()
        return f"{content}-{path.stat().st_mtime_ns:x}", outputs

    async def produce(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the segments in order of time; with a `speed`, each when it has been spoken."""
        state = self.context.state
        if _content(state.get("edition", "")) != _content(self._edition):
            state.update(edition=self._edition, next=0)
        begins = state["next"]
        if begins:
            self._say_where(begins)
        wait = self._pace(self._outputs[begins:] if begins else ())
        for number, output in enumerate(self._outputs[begins:], begins + 1):
            if "complete" not in output:
                await wait(output)
                self.context.record_counter("transcript.segments", attributes={"faulty": "fault" in output})
            state["next"] = number
            yield {**output, "edition": state["edition"]}

    def _say_where(self, begins: int) -> None:
        path, count, logger = self.context.config["path"], len(self._outputs), self.context.logger()
        if begins < count:
            logger.info("%s: goes on after %d of %d messages", path, begins, count)
            return
        logger.warning(
            "%s was published whole, and is not published again; to start over: echo-core state reset %s",
            path,
            self.context.plugin_name,
        )

    def _pace(self, rest: Sequence[dict[str, Any]]) -> Callable[[dict[str, Any]], Awaitable[None]]:
        """Waits until a segment has been spoken, counted from now, and from where the `rest` begins.

        A segment that claims to last longer than a minute is taken to have been spoken after one: a wrong
        end must not hold back everything that comes after it.
        """
        speed, began = self.context.config["speed"], self._monotonic()
        if speed:
            began -= next((each["start"] for each in rest if is_timed(each)), 0.0) / speed

        async def wait(segment: dict[str, Any]) -> None:
            if speed and is_timed(segment):
                spoken = min(segment["end"], segment["start"] + _LONGEST_SPEECH_S)
                ahead = spoken / speed - (self._monotonic() - began)
                if ahead > 0:
                    await self._sleep(ahead)

        return wait


def _content(edition: str) -> str:
    """What is the same however often the same is written."""
    return edition.partition("-")[0]


def _endings(transcript: str, segments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One for each language."""
    languages = dict.fromkeys(
        segment["language"]
        for segment in segments
        if is_timed(segment) and _LANGUAGE.fullmatch(str(segment["language"]))
    )
    return [{"transcript": transcript, "language": language, "complete": True} for language in languages]


def create_plugin() -> TranscriptSource:
    """The entry point named in manifest.json."""
    return TranscriptSource()
