"""huey with its SQLite store, for the benchmark of durability: threads enqueue, and one worker runs."""

import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any

_POLL_S = 0.01
"""How long the worker sleeps when it finds nothing: ten times less than huey's default."""


def enqueue_and_run(
    folder: Path, publishers: int, seconds: float, data: Any
) -> tuple[int, float, float, list[float]] | None:
    """So many threads enqueue, each one task at a time, for so long; then all has run.

    How many, in which time, with which CPU time of the process, and the seconds that each call took. None
    where huey is not installed. `fsync=True` has it wait for the disk, as the others do.
    """
    try:
        from huey import SqliteHuey
    except ImportError:
        return None
    huey = SqliteHuey("durable", filename=str(folder / "huey.db"), fsync=True, results=False)
    ran, waits = 0, list[float]()

    @huey.task()  # type: ignore[untyped-decorator, unused-ignore]
    def caption(segment: dict[str, Any]) -> None:
        nonlocal ran
        ran += 1

    def enqueue(until: float) -> None:
        while (began := time.perf_counter()) < until:
            caption(data)
            waits.append(time.perf_counter() - began)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    consumer = huey.create_consumer(
        workers=1, periodic=False, initial_delay=_POLL_S, max_delay=_POLL_S, check_worker_health=False
    )
    consumer.start()
    began, cpu = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=enqueue, args=(began + seconds,)) for _ in range(publishers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while ran < len(waits):
        time.sleep(0.001)
    ended, cpu = time.perf_counter() - began, time.process_time() - cpu
    consumer.stop(graceful=True)
    for number, handler in handlers.items():
        with contextlib.suppress(ValueError):
            signal.signal(number, handler)
    huey.storage.close()
    return ran, ended, cpu, waits
