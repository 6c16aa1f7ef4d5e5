"""The account at the end of a run adds up, and says what to do when it is not a good one."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from echo_core.cli.output import to_builtins
from echo_core.cli.summary import Summary, summarize, summary_text
from echo_core.runtime.states import PluginState
from echo_core.runtime.statistics import HostSnapshot, PluginSnapshot


def plugin(name: str = "a", state: PluginState = PluginState.STOPPED, **counts: int) -> PluginSnapshot:
    return PluginSnapshot(
        name=name,
        version="1.0.0",
        build_type="production",
        plugin_type="filter",
        state=state,
        reason="no server" if state is PluginState.FAILED else "",
        **counts,  # type: ignore[arg-type]
    )


def summary_of(*plugins: PluginSnapshot) -> Summary:
    return summarize(HostSnapshot(uptime_s=1.5, plugins=plugins))


def text_of(summary: Summary, width: int = 200) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(summary_text(summary))
    return stream.getvalue()


def test_a_good_run_has_no_problems_and_nothing_to_do() -> None:
    summary = summary_of(plugin(received=10, processed=7, filtered=3))
    assert (summary.ok, summary.problems, summary.next) == (True, (), ())
    assert "done in 1.5 s" in text_of(summary)


@given(st.lists(st.tuples(*[st.integers(0, 10**6)] * 4), max_size=5))
def test_totals_are_the_sums_and_add_up_when_every_plugin_does(
    parts: list[tuple[int, int, int, int]],
) -> None:
    plugins = [
        plugin(received=p + f + d + u, processed=p, filtered=f, dead_lettered=d, in_hand=u)
        for p, f, d, u in parts
    ]
    totals = summary_of(*plugins).totals
    assert totals.add_up
    assert totals.received == sum(map(sum, parts))
    assert totals.filtered == sum(part[1] for part in parts)


def test_dead_letters_make_the_run_fail_and_say_where_they_are() -> None:
    summary = summary_of(plugin(received=2, processed=1, dead_lettered=1))
    assert not summary.ok
    assert summary.problems == ("1 message was dead-lettered",)
    assert summary.next == ("echo-core dlq list",)
    assert "next: echo-core dlq list" in text_of(summary)


def test_a_failed_plugin_makes_the_run_fail_with_its_reason() -> None:
    summary = summary_of(plugin("bad", PluginState.FAILED), plugin("good"))
    assert not summary.ok
    assert summary.problems == ("bad 1.0.0 failed: no server",)
    assert summary.next == ("echo-core doctor",)


def test_messages_left_undone_make_the_run_fail() -> None:
    summary = summary_of(plugin(received=5, processed=3, in_hand=2, queue=4))
    assert not summary.ok
    assert summary.problems == ("6 messages were left undone",)
    assert summary.totals.unfinished == 2
    assert summary.totals.waiting == 4


def test_a_count_that_does_not_add_up_is_said_and_never_hidden() -> None:
    summary = summary_of(plugin(received=5, processed=3))
    assert not summary.ok
    assert summary.problems == ("the counts of a do not add up",)


def test_the_text_shows_the_equation_for_each_plugin_and_the_total() -> None:
    summary = summary_of(
        plugin("a", received=1_500, processed=1_200, filtered=300, published=1_200),
        plugin("b", received=1_200, processed=1_199, dead_lettered=1, failed_attempts=5),
    )
    lines = text_of(summary).splitlines()
    headings = "PLUGIN STATE RECEIVED = PROCESSED + FILTERED + DEAD + UNFINISHED PUBLISHED FAILED TRIES"
    assert " ".join(lines[0].split()) == headings
    assert lines[1].split() == ["a", "1.0.0", "stopped", "1,500", "1,200", "300", "0", "0", "1,200", "0"]
    assert lines[3].split() == ["total", "2,700", "2,399", "300", "1", "0", "1,200", "5"]


def test_what_was_shed_is_shown_apart_and_makes_no_run_fail() -> None:
    calm = plugin("calm", received=10, processed=10)
    busy = plugin("busy", received=3, processed=3, shed={"queue_full": 1_234})  # type: ignore[arg-type]
    summary = summary_of(calm, busy)
    assert (summary.ok, summary.totals.shed) == (True, 1_234)
    assert to_builtins(summary)["plugins"][1]["shed"] == {"queue_full": 1_234}
    for width in (200, 60):
        assert "1,234" in text_of(summary, width)
        assert ("SHED" in text_of(summary, width)) or (", shed 1,234" in text_of(summary, width))
        assert "1,234" not in text_of(summary_of(calm), width)


def test_the_document_has_the_same_numbers() -> None:
    document = to_builtins(summary_of(plugin(received=2, processed=1, dead_lettered=1)))
    assert document["totals"]["received"] == 2
    assert document["plugins"][0]["counts"]["dead_lettered"] == 1
    assert list(document["next"]) == ["echo-core dlq list"]


def test_on_a_terminal_too_narrow_for_the_table_each_plugin_has_a_sentence_that_is_never_broken() -> None:
    summary = summary_of(
        plugin("transcript_validator", received=99_103, processed=98_097, filtered=1_000, dead_lettered=6),
        plugin("webvtt_sink", state=PluginState.FAILED),
    )
    lines = text_of(summary, width=80).splitlines()
    assert lines[:3] == [
        "transcript_validator 1.0.0  stopped",
        "  received 99,103 = 98,097 processed + 1,000 filtered + 6 dead + 0 unfinished",
        "  published 0, failed tries 0",
    ]
    assert lines[3] == "webvtt_sink 1.0.0  failed"
    assert lines[6] == "total"
    assert "PLUGIN" not in "\n".join(lines)
