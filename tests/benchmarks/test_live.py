"""The benchmark of plugins that come and go, in short."""

import re
import sys

import pytest
from benchmarks.live import main


def test_every_message_is_accounted_for_and_both_parts_say_their_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["live", "--upgrades", "2", "--rate", "300", "--cycles", "5"])
    main()
    said = capsys.readouterr().out
    counts = re.search(r"sent ([\d,]+), handled by the middle ([\d,]+), arrived ([\d,]+)", said)
    assert counts
    assert len(set(counts.groups())) == 1
    assert "latency around a swap (ms): p50" in said
    assert re.search(r"^ +5  resident", said, re.MULTILINE)
