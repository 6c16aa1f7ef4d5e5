"""dramatiq on its stub broker, untraced: three actors, each sends to the next, as JSON."""

import threading
from typing import Any

from benchmarks import job, work

try:
    import dramatiq
    from dramatiq.brokers.stub import StubBroker
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None


def run(task: job.Job) -> None:
    """Declare the actors, run a worker in this process, wait for the last message."""
    broker = StubBroker()
    dramatiq.set_broker(broker)
    finished = threading.Event()
    tallying = threading.Lock()

    @dramatiq.actor(broker=broker, queue_name="raw")
    def validate(segment: dict[str, Any]) -> None:
        work.validate(segment)
        transform.send(segment)

    @dramatiq.actor(broker=broker, queue_name="valid")
    def transform(segment: dict[str, Any]) -> None:
        sink.send(work.transform(segment))

    @dramatiq.actor(broker=broker, queue_name="captions")
    def sink(caption: dict[str, Any]) -> None:
        with tallying:  # the worker runs actors in several threads
            task.tally.add(caption)
        if task.is_done:
            finished.set()

    worker = dramatiq.Worker(broker)
    worker.start()
    task.start()
    for segment in task.segments():
        validate.send(segment)
    finished.wait()
    task.stop()
    worker.stop()


if __name__ == "__main__":
    job.main(run, packages=("dramatiq",))
