from benchmarks.demands import (
    Row,
    against_peers,
    of_latency,
    of_memory,
    of_queues,
    of_seconds,
    of_subscriptions,
)
from benchmarks.measure import Measured, Run
from benchmarks.peers import CONTESTANTS


def measured(key: str, *rates: float, lost: int = 0, unavailable: str = "") -> Measured:
    contestant = next(one for one in CONTESTANTS if one.key == key)
    runs = [
        Run(messages=1_000, seconds=1_000 / rate, cpu_seconds=1 / rate, spans_lost=lost) for rate in rates
    ]
    return Measured(contestant, runs, unavailable=unavailable)


def only_row(*contestants: Measured) -> Row:
    (row,) = against_peers(contestants)
    return row


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() -> None:
    row = only_row(measured("echo_core", 100, 240, 300), measured("handwritten_traced", 10, 12, 10))
    assert (row.found, row.spread, row.met) == ("24.0x", "10.0x .. 30.0x", True)


def test_a_demand_that_is_missed_by_a_little_is_not_met() -> None:
    assert only_row(measured("echo_core", 199), measured("handwritten_traced", 10)).met is False


def test_a_rate_reached_by_losing_spans_meets_nothing() -> None:
    row = only_row(measured("echo_core", 500, lost=1), measured("handwritten_traced", 10))
    assert row.met is False
    assert "1 spans" in row.note


def test_a_peer_that_cannot_run_leaves_the_demand_open_and_says_why() -> None:
    row = only_row(
        measured("echo_core", 500), measured("faststream", unavailable="No module named 'faststream'")
    )
    assert row.met is None
    assert "No module named 'faststream'" in row.note


def test_a_ratio_without_a_demand_is_shown_and_judged_by_nobody() -> None:
    row = only_row(measured("echo_core_off", 500), measured("dramatiq", 10))
    assert (row.found, row.met) == ("50.0x", None)


def test_memory_that_grows_or_shrinks_by_more_than_five_percent_is_not_flat() -> None:
    for end, met in ((105, True), (106, False), (94, False)):
        found = {
            "messages": 10,
            "resident_bytes": [100, 100, end],
            "most_resident_bytes": 120,
            "most_spans_waiting": 7,
            "spans_dropped": 0,
        }
        (row,) = of_memory({"off": found}, wanted=10)
        assert row.met is met


def test_a_system_that_does_not_tell_memory_leaves_the_demand_open() -> None:
    (row,) = of_memory({"off": {"messages": 10, "resident_bytes": [0, 0]}}, wanted=10)
    assert row.met is None


def test_subscriptions_are_judged_by_the_medians_of_cpu_time() -> None:
    (row,) = of_subscriptions({"off": {10: [10.0, 10.0, 99.0], 1_000: [12.0, 12.0, 12.0]}}, "all")
    assert (row.found, row.met) == ("1.200x", True)


def test_what_a_thousand_queues_cost_by_hand_is_shown_and_not_judged() -> None:
    row = of_queues({10: [4.0, 4.0, 5.0], 1_000: [6.0, 6.0, 6.0]})
    assert (row.found, row.met, row.note) == ("1.500x", None, "4.0 and 6.0 us CPU")


def test_a_time_is_judged_by_its_median() -> None:
    assert of_seconds("x", 2.0, [1.0, 1.5, 9.0]).met is True
    assert of_seconds("x", 2.0, [1.0, 2.5, 9.0]).met is False
    assert of_seconds("x", 2.0, [], "no such command").met is None


def test_latency_says_how_much_the_machine_did_other_things() -> None:
    run = {"p50_ms": 0.1, "p99_ms": 3.0, "rate": 100.0, "machine_away": 0.02, "machine_away_longest_ms": 9.0}
    middle, high = of_latency({"traced": run | {"runs": [run]}})
    assert (middle.met, high.met) == (True, False)
    assert "away for 2.0% of the time, for 9.0 ms at once" in high.note
