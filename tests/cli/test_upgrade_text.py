"""How an upgrade under way is told."""

import msgspec

from echo_core.cli.upgrade import text_of
from echo_core.control.documents import Upgraded
from echo_core.runtime.upgrade.status import Comparison, Difference, TrialStatus

TRIAL = TrialStatus(
    name="shout",
    strategy="shadow",
    old_version="1.0",
    new_version="2.0",
    percent=0.0,
    old_ended=3,
    new_ended=3,
    old_failed=0,
    new_failed=0,
    seconds=2.0,
    looks=0,
)


def told(**changes: object) -> list[str]:
    trial = msgspec.structs.replace(TRIAL, **changes)
    return text_of(Upgraded(name="shout", trial=trial, outcome="", plugin=None)).splitlines()


def test_what_a_shadow_says_otherwise_stands_below_what_the_old_version_says() -> None:
    difference = Difference(
        message_id="m1", topic="text.raw", old=(("text.loud", {"text": "HELLO"}), ("text.more", 1)), new=()
    )
    lines = told(comparison=Comparison(same=2, different=1, not_compared=0, differences=(difference,)))
    assert lines[3:8] == [
        "  output: 2 same, 1 other, 0 not compared",
        "  m1 on text.raw",
        '    1.0  text.loud  {"text":"HELLO"}',
        "    1.0  text.more  1",
        "    2.0  nothing",
    ]


def test_what_a_shadow_fails_at_is_told_with_its_reason() -> None:
    failed = Difference(
        message_id="m1", topic="raw", old=(("out", 1),), new=(), new_failed="ValueError: no\x1b"
    )
    lines = told(comparison=Comparison(same=0, different=1, not_compared=0, differences=(failed,)))
    assert lines[5:7] == ["    1.0  out  1", "    2.0  failed: ValueError: no\\x1b"]


def test_what_can_be_done_next_is_that_of_the_strategy() -> None:
    assert told()[-1] == "next: echo-core upgrade shout --show, --finish or --abort"
    assert "--switch" in told(strategy="blue-green")[-1]
    assert "--percent NUMBER" in told(strategy="canary")[-1]


def test_how_long_either_version_takes_is_told_where_it_is_known() -> None:
    lines = told(old_p95_ms=0.21, new_p95_ms=11.04)
    assert lines[1:3] == [
        "  1.0  ended 3, failed at first 0, 95 % handled within 0.2 ms",
        "  2.0  ended 3, failed at first 0, 95 % handled within 11.0 ms",
    ]
    assert "handled" not in told()[1]
