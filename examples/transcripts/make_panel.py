"""Gives every word of panel.txt its times, adds some faults, and writes panel.jsonl.

Always the same file: the variation of speech comes from a generator with a fixed seed.

    python examples/transcripts/make_panel.py
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
TURN: Final = re.compile(r"(?P<language>\w\w) (?P<speaker>[^:]+): (?P<text>.+)", re.DOTALL)
SEED: Final = 1867

# Seconds a letter, and how far a speaker strays from it.
PACE: Final = {"Moderator": 0.060, "Engineer": 0.057, "Ferry pilot": 0.066, "Visitor": 0.062}
USUAL_PACE: Final = 0.061
PAUSES: Final = {",": 0.22, ";": 0.3, ":": 0.35, ".": 0.55, "?": 0.6, "!": 0.5}
SEGMENT_WORDS: Final = 28

# What a recogniser under load may send: after so many segments, this line.
FAULTS: Final = {
    9: '{"start": 61.84, "end": 58.2, "text": "(a door)", "speaker": "Moderator", "language": "en"}',
    23: '{"start": 150.0, "end": 151.5, "text": "  ", "speaker": "Engineer", "language": "en"}',
    37: '{"start": 236.1, "end": 238.9, "text": "(the microphone is pas',
    52: '{"start": 330.4, "end": 331.0, "text": "(laughter)", "speaker": "Visitor", "language": "??"}',
    66: '{"start": "07:01", "end": "07:03", "text": "(bells)", "speaker": "Visitor", "language": "en"}',
    80: '{"start": 520.0, "end": 99520.0, "text": "(silence)", "speaker": "Moderator", "language": "en"}',
}


def turns(text: str) -> Iterator[tuple[str, str, str]]:
    """Language, speaker and words of each paragraph."""
    for paragraph in text.split("\n\n"):
        turn = TURN.fullmatch(paragraph.strip())
        if turn:
            yield turn["language"], turn["speaker"], " ".join(turn["text"].split())


def segments(text: str, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Each turn, cut at ends of sentences into segments of about `SEGMENT_WORDS` words, with times."""
    now = 1.2
    for language, speaker, said in turns(text):
        now += chance.uniform(0.25, 1.1)
        words: list[dict[str, Any]] = []
        for sentence in re.split(r"(?<=[.?!]) ", said):
            if words and len(words) + len(sentence.split()) > SEGMENT_WORDS:
                yield segment(language, speaker, words)
                words = []
            spoken, now = speak(sentence.split(), PACE.get(speaker, USUAL_PACE), now, chance)
            words += spoken
        yield segment(language, speaker, words)


def speak(
    texts: list[str], pace: float, now: float, chance: random.Random
) -> tuple[list[dict[str, Any]], float]:
    """The words with their times, beginning at `now`, and the time when the pause after them is over."""
    words = []
    for text in texts:
        lasts = (0.08 + pace * len(text)) * chance.uniform(0.82, 1.2)
        words.append({"text": text, "start": round(now, 2), "end": round(now + lasts, 2)})
        now += lasts + chance.uniform(0.0, 0.05) + PAUSES.get(text[-1], 0.0) * chance.uniform(0.6, 1.5)
    return words, now


def segment(language: str, speaker: str, words: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the file."""
    return {
        "start": words[0]["start"],
        "end": words[-1]["end"],
        "speaker": speaker,
        "language": language,
        "text": " ".join(word["text"] for word in words),
        "words": words,
    }


def lines(text: str) -> Iterator[str]:
    """The lines of panel.jsonl, faults included."""
    for number, spoken in enumerate(segments(text, random.Random(SEED)), 1):  # noqa: S311 (no secret)
        yield json.dumps(spoken, ensure_ascii=False)
        if number in FAULTS:
            yield FAULTS[number]


def main() -> None:
    """Write the file beside this one."""
    text = (HERE / "panel.txt").read_text(encoding="utf-8")
    (HERE / "panel.jsonl").write_text("\n".join(lines(text)) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
