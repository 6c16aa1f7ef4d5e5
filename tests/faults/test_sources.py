"""A source whose host is killed at any moment leaves nothing out, and its sink has nothing twice.

Here a few kills, with `make faults` a tenth of `ECHO_CORE_KILLS`. What is random is printed when it fails.
"""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from echo_core.runtime.checkpoints import CheckpointStore
from faults.lives import lives_in
from plugins.strict_webvtt import read_strictly

KILLS = max(6, int(os.environ.get("ECHO_CORE_KILLS", "0")) // 10)
LINES = 400
"""Of a transcript; the next one is another, so that kills meet its beginning and its end too."""


def write_transcript(path: Path, edition: int) -> None:
    """Short sentences, a second each, in two languages, and now and then a line that is none."""
    lines = []
    for number in range(LINES):
        text = f"This is line {number} of edition {edition}."
        language = "en" if number % 3 else "de"
        line = json.dumps({"start": 2 * number, "end": 2 * number + 2, "text": text, "language": language})
        lines.append(line if number % 50 else f"not JSON {number}")
    path.write_text("\n".join(lines))


def captions(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Identifier and text of every caption, by file, in the order of the file."""
    return {
        file.name: [(cue.identifier, " ".join(cue.lines)) for cue in read_strictly(file.read_bytes())]
        for file in sorted(folder.glob("*.vtt"))
    }


def segments_by_id(witness: Path, edition: str) -> list[str]:
    """The segments of messages with different ids: what a sink has that knows them by their ids."""
    seen = {line.split()[0]: line.split()[1:] for line in witness.read_text().splitlines()}
    return sorted(segment for of, segment in seen.values() if of == edition)


def good_segments() -> list[str]:
    """One for each good line, and an end for each language."""
    return sorted(["end", "end", *(f"talk-{line:05d}" for line in range(1, LINES + 1) if (line - 1) % 50)])


@pytest.mark.timeout(120 + 3 * KILLS)
@pytest.mark.slow
@pytest.mark.parametrize("url", ["memory://", "sqlite://messages.sqlite?lease=1s"])
def test_of_captions_none_is_lost_and_none_is_there_twice(tmp_path: Path, url: str) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kills = edition = 0
    (tmp_path / "calm").mkdir()
    with lives_in(tmp_path) as lives, lives_in(tmp_path / "calm") as calm:
        while kills < KILLS:
            edition += 1
            write_transcript(tmp_path / "talk.jsonl", edition)
            ended = 1
            while ended:
                process = lives.begin(f"captions {url}")
                time.sleep(chance.uniform(0, 0.7))
                if kills < KILLS:
                    with contextlib.suppress(ProcessLookupError):  # it has come to its end
                        os.kill(process, signal.SIGKILL)
                    kills += 1
                ended = lives.ended()
                assert ended in (0, -signal.SIGKILL)
            write_transcript(tmp_path / "calm" / "talk.jsonl", edition)
            for file in (tmp_path / "calm").glob("checkpoints*"):
                file.unlink()
            calm.begin("captions memory://")
            assert calm.ended() == 0
            found, expected = (captions(folder / "captions") for folder in (tmp_path, tmp_path / "calm"))
            assert found == expected
            with contextlib.closing(CheckpointStore(tmp_path / "checkpoints.sqlite")) as store:
                kept = store.get("transcript_source").values()
            assert kept["next"] == LINES + 2
            assert segments_by_id(tmp_path / "witness", kept["edition"]) == good_segments()
