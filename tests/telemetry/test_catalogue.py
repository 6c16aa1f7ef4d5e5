"""The catalogue, and what is really recorded."""

import pytest

from common_telemetry import Account
from common_telemetry.catalogue import CATALOGUE, Metric
from common_telemetry.testing import InMemoryTelemetry
from telemetry.pipeline import run_pipeline

KINDS = {"counter": "sum", "up_down_counter": "sum", "gauge": "gauge", "histogram": "histogram"}


def exercise(memory: InMemoryTelemetry) -> None:
    plugin = memory.for_plugin("sink")
    for event in ("init", "health_check", "shutdown"):
        with plugin.lifecycle(event):
            pass
    plugin.observe_account(lambda: Account(*range(1, 10)))
    plugin.shed("orders.new", "queue_full")
    plugin.dead_letters(2, 1.5)
    plugin.history_dropped("record", 2)
    run_pipeline(memory.context)
    for pipeline in memory.context._pipelines:  # without losses nothing is said of them
        pipeline.tally.enter(2)
        pipeline.tally.failed(2, "as the test says")


def test_nothing_is_measured_that_is_not_in_the_catalogue(memory: InMemoryTelemetry) -> None:
    exercise(memory)
    assert {point.name for point in memory.metrics()} == {metric.name for metric in CATALOGUE}


@pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
def test_a_metric_is_as_the_catalogue_says(metric: Metric, memory: InMemoryTelemetry) -> None:
    exercise(memory)
    points = memory.metrics(metric.name)
    assert points
    for point in points:
        assert (point.kind, point.unit) == (KINDS[metric.kind], metric.unit)
        assert point.description == metric.description
        assert set(point.attributes) == set(metric.attributes)
        assert point.bounds == (metric.buckets or ())
