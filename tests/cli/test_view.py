"""The live view and the plain lines, from pairs of snapshots."""

import io

from rich.console import Console, RenderableType

from echo_core.cli.view import live_view, rate, state_line, totals_line
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot


def plugin(name: str = "shout", **values: object) -> PluginSnapshot:
    defaults: dict[str, object] = {
        "version": "1.0.0",
        "build_type": "development",
        "plugin_type": "transformer",
        "state": PluginState.RUNNING,
        "reason": "",
        "subscriptions": ("a",),
        "publications": ("b",),
    }
    return PluginSnapshot(name=name, **(defaults | values))  # type: ignore[arg-type]


def host(uptime_s: float, *plugins: PluginSnapshot) -> HostSnapshot:
    return HostSnapshot(uptime_s=uptime_s, plugins=plugins)


def text_of(renderable: RenderableType) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=200, color_system=None).print(renderable)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_rate_is_growth_over_time_and_unknown_before_any_time_passed() -> None:
    assert rate(100, 300, 4.0) == 50.0
    assert rate(100, 300, 0.0) is None


def test_the_view_shows_rates_since_the_earlier_snapshot() -> None:
    before = host(10.0, plugin(received=1_000, published=900))
    after = host(
        12.0,
        plugin(received=3_400, published=1_000, p95_ms=4.04, failed_attempts=2, dead_lettered=1, queue=8_412),
    )
    row = next(line for line in text_of(live_view(before, after, hint="")) if "shout" in line)
    assert row.split() == ["shout", "1.0.0", "*", "running", "1,200", "50", "4.0", "2", "1", "8,412"]


def test_versions_of_one_plugin_are_counted_apart() -> None:
    old, new = plugin(version="1.0.0", received=500), plugin(version="2.0.0", received=10)
    after = host(2.0, plugin(version="2.0.0", received=30), old)
    rows = [line.split() for line in text_of(live_view(host(1.0, new, old), after, hint=""))]
    assert [(row[1], row[4]) for row in rows if row[0] == "shout"] == [("2.0.0", "20"), ("1.0.0", "0")]


def test_versions_that_went_are_told_in_one_line_and_a_plugin_that_went_keeps_its_row() -> None:
    went = [plugin(version=f"1.{number}", state=PluginState.STOPPED) for number in range(50)]
    tally = [plugin("tally", version=version, state=PluginState.STOPPED) for version in ("1.0", "1.1")]
    lines = text_of(live_view(host(1.0), host(2.0, plugin(version="2.0"), *went, *tally), hint=""))
    rows = [line.split()[:4] for line in lines[2:-1]]
    assert ["shout", "2.0", "*", "running"] in rows
    assert ["tally", "1.1", "-", "stopped"] in rows
    assert len([row for row in rows if row[0] in ("shout", "tally")]) == 2
    assert lines[-1] == "earlier versions: shout 50, tally 1; see echo-core status NAME"


def test_a_plugin_that_was_not_there_before_counts_from_nothing() -> None:
    row = text_of(live_view(host(1.0), host(2.0, plugin(received=5)), hint=""))[-1]
    assert row.split()[4] == "5.0"


def test_a_source_has_no_intake_and_a_sink_no_output() -> None:
    source = plugin("src", subscriptions=(), published=100)
    sink = plugin("out", publications=(), received=100)
    lines = text_of(live_view(host(0.0), host(1.0, source, sink), hint=""))
    assert next(line for line in lines if "src" in line).split()[4:6] == ["-", "100"]
    assert next(line for line in lines if line.startswith("out")).split()[4:6] == ["100", "-"]


def test_what_is_wrong_is_said_with_a_sign_a_word_and_its_first_line() -> None:
    failed = plugin(state=PluginState.FAILED, reason="init: no server\nTraceback …")
    lines = text_of(live_view(host(0.0), host(1.0, failed), hint="Ctrl-C stops"))
    assert "x failed" in next(line for line in lines if line.startswith("shout"))
    assert lines[-1] == "x shout: init: no server"


def test_the_view_says_how_long_and_what_ctrl_c_does() -> None:
    assert text_of(live_view(host(0.0), host(3_725.9), hint="Ctrl-C stops"))[0] == "1:02:05  Ctrl-C stops"


def test_the_line_of_totals_adds_all_plugins_up() -> None:
    before = host(0.0, plugin("a", received=10), plugin("b", received=0))
    after = host(
        5.0,
        plugin("a", received=30, processed=25, filtered=3, dead_lettered=1, failed_attempts=6, queue=7),
        plugin("b", received=30, processed=30, state=PluginState.FAILED),
    )
    assert totals_line(before, after) == (
        "0:00:05  1 of 2 plugins running, received 60 (10/s), processed 55, filtered 3, dead-lettered 1, "
        "failed attempts 6, queue 7"
    )


def test_versions_that_have_stopped_are_no_plugins_that_do_not_run() -> None:
    after = host(1.0, plugin("a", received=5), plugin("a", received=7, state=PluginState.STOPPED))
    assert "  1 of 1 plugins running, received 12" in totals_line(host(0.0), after)


def test_plugins_that_get_on_with_nothing_are_not_told_as_running() -> None:
    states = (PluginState.RUNNING, PluginState.DEGRADED, PluginState.STALLED, PluginState.CIRCUIT_OPEN)
    after = host(1.0, *(plugin(state.value, state=state) for state in states))
    assert "  2 of 4 plugins running, 1 stalled, 1 circuit_open, received" in totals_line(host(0.0), after)


def test_what_was_shed_is_shown_where_there_is_any() -> None:
    quiet, busy = plugin("quiet"), plugin("busy", shed={"queue_full": 12})
    header, first, second = text_of(live_view(host(0.0), host(1.0, quiet, busy), hint=""))[1:4]
    assert (header.split()[-1], first.split()[-1], second.split()[-1]) == ("SHED", "0", "12")
    assert totals_line(host(0.0), host(1.0, quiet, busy)).endswith("shed 12")
    assert "shed" not in totals_line(host(0.0), host(1.0, quiet))


def test_a_move_is_one_line_with_its_reason_and_more_only_where_a_plugin_is_broken() -> None:
    assert state_line("a", "1.0", PluginState.RUNNING) == "a 1.0 running"
    assert state_line("a", "1.0", PluginState.DEGRADED, "no\x1b[2J\nmore") == r"a 1.0 degraded: no\x1b[2J"
    assert state_line("a", "1.0", PluginState.FAILED, "no\nmore") == "a 1.0 failed: no\n  more"
