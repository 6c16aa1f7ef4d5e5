"""Breaks segments into captions that can be read."""

import itertools
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from caption_transformer.layout import Limits, divide, set_lines
from caption_transformer.timing import schedule
from caption_transformer.words import break_costs, milliseconds, width, words_of
from echo_core import BaseMessage, PluginContext, Transformer

_CARRIED: Final = ("transcript", "edition", "segment", "language")


class _Screen(NamedTuple):
    """What a language's viewers have been shown last: enough to keep captions from overlapping."""

    segment: str
    before: int
    """Until when captions were shown before that segment's."""
    until: int
    start: float
    """When that segment begins."""


class CaptionTransformer(Transformer):
    """Makes captions of each segment at once, and publishes them; it holds no text back.

    So nothing is lost when it stops between two segments. What it remembers is until when the last
    caption of a language is shown; a segment that comes twice gets the same captions twice, and one that
    comes again after later ones has its own time.
    """

    def __init__(self) -> None:
        self._screens: dict[tuple[str, str], _Screen] = {}

    async def init(self, context: PluginContext) -> None:
        """Prepare the limits."""
        await super().init(context)
        config = context.config
        self._limits = Limits(
            lines=config["lines"],
            line_length=config["line_length"],
            min_duration=milliseconds(config["min_duration_s"]),
            max_duration=milliseconds(config["max_duration_s"]),
            reading_speed=config["reading_speed"],
            max_delay=milliseconds(config["max_delay_s"]),
        )
        self._conjunctions = {
            language.lower(): frozenset(words) for language, words in config["conjunctions"].items()
        }

    async def transform(self, message: BaseMessage) -> dict[str, Any]:
        """Publish the segment's captions; the last is returned, for the role to publish."""
        # A source of another make may have no names for its transcript and segments.
        data: dict[str, Any] = {"transcript": "captions", "segment": message.id, **message.data}
        if data.get("complete"):
            self._screens.pop(_track(data), None)
            return message.data  # type: ignore[no-any-return]
        *earlier, last = self._captions(data)
        for caption in earlier:
            await self.context.publish(self.context.publications[0], caption)
        return last

    def _captions(self, segment: Mapping[str, Any]) -> list[dict[str, Any]]:
        limits, language = self._limits, segment["language"]
        words = words_of(segment, longest=limits.line_length)
        costs = break_costs(words, self._conjunctions.get(language.lower().partition("-")[0], ()))
        known = segment.get("next_start")
        next_start = None if known is None else milliseconds(known)
        parts = divide(words, costs, words[-1].end if next_start is None else next_start, limits)
        screen = self._screen(segment)
        times = schedule(parts, not_before=screen.before, next_start=next_start, limits=limits)
        if not self._is_past(segment):
            self._screens[_track(segment)] = screen._replace(until=times[-1].end)

        captions = []
        first_word = itertools.accumulate(map(len, parts), initial=0)
        for number, (part, shown, at) in enumerate(zip(parts, times, first_word, strict=False), 1):
            caption = {
                "caption": f"{segment['segment']}.{number}",
                **{key: segment[key] for key in _CARRIED if key in segment},
                "speaker": segment.get("speaker", ""),
                "start": shown.start / 1000,
                "end": shown.end / 1000,
                "text": set_lines(part, costs[at:], limits),
            }
            speed = width(part) * 1000 / (shown.end - shown.start)
            if speed > limits.reading_speed:
                caption["reading_speed_exceeded"] = True
            self._record(language, speed, shown.start - part[0].start)
            captions.append(caption)
        return captions

    def _screen(self, segment: Mapping[str, Any]) -> _Screen:
        """What was shown before this segment, also if the segment comes a second time."""
        last, start = self._screens.get(_track(segment)), segment["start"]
        if last is None or self._is_past(segment):
            return _Screen(segment["segment"], 0, 0, start)
        if last.segment == segment["segment"]:
            return last
        return _Screen(segment["segment"], last.until, last.until, start)

    def _is_past(self, segment: Mapping[str, Any]) -> bool:
        """Whether later ones were shown already: it comes again after a crash, and moves nothing."""
        last = self._screens.get(_track(segment))
        return last is not None and segment["start"] < last.start

    def _record(self, language: str, speed: float, delay_ms: int) -> None:
        attributes = {"language": language}
        context = self.context
        context.record_counter("captions.made", attributes=attributes)
        context.record_histogram("captions.reading_speed", speed, attributes)
        context.record_histogram("captions.delay_ms", delay_ms, attributes)
        if speed > self._limits.reading_speed:
            context.record_counter("captions.reading_speed_exceeded", attributes=attributes)


def _track(segment: Mapping[str, Any]) -> tuple[str, str]:
    """Captions of one transcript in one language share a screen."""
    return segment["transcript"], segment["language"]


def create_plugin() -> CaptionTransformer:
    """The entry point named in manifest.json."""
    return CaptionTransformer()
