"""The work that every contestant does: check a transcript segment, make a caption of it, add it up.

All of them call these functions on the same messages, so that only what lies between the three differs;
the tally at the end shows that nobody did less.
"""

import itertools
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

Segment = dict[str, Any]
Caption = dict[str, Any]

RAW: Final = "transcript.raw"
VALID: Final = "transcript.valid"
CAPTIONS: Final = "captions.en"

_PHRASES: Final = (
    "so what we see here is the second run of the day",
    "and  that is why we measure before we change anything",
    "could you go back to the slide with the latencies please",
    "yes of course  it is this one",
    "the queue was full so the source had to wait",
    "and nothing was lost",
    "thank you  are there any other questions",
)
_SPEAKERS: Final = ("anna", "ben", "chair")
_POOL_SIZE: Final = 1_000


class InvalidSegment(ValueError):
    """The segment is not what a transcript may hold."""


def segment(number: int) -> Segment:
    """The segment of this number; the same one whenever it is asked for."""
    start = number * 2.5
    return {
        "text": _PHRASES[number % len(_PHRASES)],
        "start": start,
        "end": start + 2.0 + (number % 5) / 10,
        "speaker": _SPEAKERS[number % len(_SPEAKERS)],
        "language": "en",
        "confidence": 0.75 + (number % 25) / 100,
    }


def segments(count: int) -> Iterator[Segment]:
    """`count` segments out of a pool made beforehand, so that making them costs nobody anything."""
    pool = [segment(number) for number in range(min(count, _POOL_SIZE))]
    return itertools.islice(itertools.cycle(pool), count)


def validate(data: Mapping[str, Any]) -> None:
    """Return for a good segment; raises `InvalidSegment`."""
    if not isinstance(data["text"], str) or not data["text"].strip():
        raise InvalidSegment("text is empty")
    if not 0 <= data["start"] < data["end"]:
        raise InvalidSegment("start must lie before end")
    if not 0 <= data["confidence"] <= 1:
        raise InvalidSegment("confidence is no share")
    if len(data["language"]) != 2:
        raise InvalidSegment("language is no two-letter code")


def transform(data: Mapping[str, Any]) -> Caption:
    """The caption of a segment: tidy text, whole milliseconds."""
    text = " ".join(data["text"].split())
    return {
        "text": text[0].upper() + text[1:],
        "start_ms": round(data["start"] * 1_000),
        "end_ms": round(data["end"] * 1_000),
        "speaker": data["speaker"],
    }


class Tally:
    """The sink: what arrived, added up so that the order does not matter."""

    def __init__(self) -> None:
        self.count = 0
        self.checksum = 0

    def add(self, caption: Mapping[str, Any]) -> None:
        """Count the caption in."""
        self.count += 1
        self.checksum += zlib.crc32(caption["text"].encode()) ^ caption["start_ms"] ^ caption["end_ms"]


def expected(count: int) -> Tally:
    """The tally that `count` messages must end in."""
    tally = Tally()
    for data in segments(count):
        tally.add(transform(data))
    return tally
