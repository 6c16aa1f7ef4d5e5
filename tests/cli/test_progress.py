"""A table on a terminal, plain lines everywhere else."""

import io

import pytest

from echo_core.cli.output import Output
from echo_core.cli.progress import STOPPING, LiveProgress, PlainProgress, progress_for
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_pipe_gets_plain_lines_without_escape_codes() -> None:
    stream = io.StringIO()
    with progress_for(Output(stderr=stream), plain=False) as progress:
        progress.moved("a", "1.0", PluginState.RUNNING, "")
        progress.show(HostSnapshot(uptime_s=5.0))
        progress.say(STOPPING)
    moved, totals, stopping = stream.getvalue().splitlines()
    assert (moved, stopping) == ("a 1.0 running", STOPPING)
    assert totals.startswith("0:00:05  0 of 0 plugins running")
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_the_table_unless_plain_lines_are_asked_for() -> None:
    with progress_for(Output(stderr=Terminal()), plain=False) as progress:
        assert isinstance(progress, LiveProgress)
    with progress_for(Output(stderr=Terminal()), plain=True) as progress:
        assert isinstance(progress, PlainProgress)


def test_a_script_that_reads_json_is_not_told_how_it_goes() -> None:
    stream = io.StringIO()
    with progress_for(Output(json=True, stderr=stream), plain=False) as progress:
        progress.say(STOPPING)
        progress.show(HostSnapshot(uptime_s=5.0))
    assert stream.getvalue() == ""


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with progress_for(Output(stderr=Terminal()), plain=False) as progress:
        assert isinstance(progress, PlainProgress)


def test_the_table_says_what_ctrl_c_does_now_and_keeps_failures_readable_above_it() -> None:
    stream = Terminal()
    with progress_for(Output(stderr=stream, color="never"), plain=False) as progress:
        progress.moved("good", "1.0", PluginState.RUNNING, "")
        progress.moved("bad", "1.0", PluginState.FAILED, "no server")
        progress.say(STOPPING)
        progress.show(HostSnapshot(uptime_s=1.0))
    assert "bad 1.0 failed: no server" in stream.getvalue()
    assert "good 1.0 running" not in stream.getvalue()
    assert STOPPING[:60] in stream.getvalue()


def test_a_live_view_asks_for_at_most_four_frames_a_second_and_plain_lines_every_five() -> None:
    assert LiveProgress.interval_s >= 0.25
    assert PlainProgress.interval_s == 5.0


def test_a_reader_of_progress_that_went_away_does_not_stop_the_host() -> None:
    progress = PlainProgress(Broken())
    progress.say("one")
    progress.say("two")
