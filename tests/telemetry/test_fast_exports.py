"""What waits, in what portions it is sent, and who gives way to whom."""

import pytest

from common_telemetry.engines.fast import buffer as buffers
from common_telemetry.engines.fast import exports
from common_telemetry.engines.fast.buffer import Buffer
from common_telemetry.engines.fast.wire import ITEM, Origin, delimited

ORIGIN = Origin({}, "", "scope", "1")


def of_bytes(limit: int, batch: int = 512) -> Buffer:
    """A buffer of items as large as their numbers say."""
    return Buffer(limit, lambda size: (ORIGIN, delimited(ITEM, bytes(size))), batch=batch)


@pytest.mark.parametrize(
    ("environ", "limit", "batch"),
    [
        ({}, 65_536, 4_096),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "2048"}, 2_048, 512),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "2"}, 2, 1),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100"}, 65_536, 100),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "100"}, 10, 10),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "-1", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "many"}, 65_536, 4_096),
    ],
)
def test_the_queue_and_the_batch_are_as_told_and_fit_each_other(
    environ: dict[str, str], limit: int, batch: int
) -> None:
    assert (exports.queue_limit("traces", environ), exports.batch_size("traces", environ)) == (limit, batch)
    of_logs = {name.replace("BSP", "BLRP"): value for name, value in environ.items()}
    assert (exports.queue_limit("logs", of_logs), exports.batch_size("logs", of_logs)) == (limit, batch)


def test_a_request_stays_below_what_backends_take() -> None:
    buffer = of_bytes(100)
    for _ in range(10):
        buffer.add(1_000_000)
    drained = buffer.drain(100)
    assert drained is not None
    assert drained[1] == 3  # the third goes beyond two megabytes
    assert len(buffer) == 7


def test_it_wakes_once_for_a_batch_and_again_after_it() -> None:
    buffer, woken = of_bytes(1_000, batch=10), []
    buffer.wake = lambda: woken.append(len(buffer))
    for _ in range(35):
        buffer.add(1)
    assert woken == [10]
    assert buffer.drain(10) is not None
    buffer.settle()
    for _ in range(10):
        buffer.add(1)
    assert len(woken) == 2


def test_who_adds_gives_way_only_while_much_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    gave_way: list[float] = []
    monkeypatch.setattr(buffers, "sleep", gave_way.append)
    buffer = of_bytes(2_000)
    for _ in range(1_000):
        buffer.add(1)
    assert gave_way == []
    for _ in range(1_500):
        buffer.add(1)
    assert set(gave_way) == {buffers._LET_GO_S}  # long enough to let go of the lock; no backend is waited for
    assert 10 <= len(gave_way) <= 20
    assert (len(buffer), buffer.dropped) == (2_000, 500)
