"""Bytewax, untraced: one worker, messages handed from step to step in batches of 1,000."""

from benchmarks import job, work

try:
    import bytewax.operators as op
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import TestingSource, run_main
except ImportError as error:
    raise SystemExit(job.not_available(error)) from None

BATCH_SIZE = 1_000


class TallyPartition(StatelessSinkPartition[work.Caption]):
    """Adds a batch up."""

    def __init__(self, tally: work.Tally) -> None:
        self._tally = tally

    def write_batch(self, items: list[work.Caption]) -> None:
        for item in items:
            self._tally.add(item)


class TallySink(DynamicSink[work.Caption]):
    """The end of the flow."""

    def __init__(self, tally: work.Tally) -> None:
        self._tally = tally

    def build(self, step_id: str, worker_index: int, worker_count: int) -> TallyPartition:
        return TallyPartition(self._tally)


def validated(segment: work.Segment) -> work.Segment:
    """The segment, if it is good."""
    work.validate(segment)
    return segment


def run(task: job.Job) -> None:
    """Build the flow and run it to its end."""
    flow = Dataflow("captions")
    raw = op.input("raw", flow, TestingSource(task.segments(), BATCH_SIZE))
    valid = op.map("validate", raw, validated)
    captions = op.map("transform", valid, work.transform)
    op.output("sink", captions, TallySink(task.tally))
    task.start()
    run_main(flow)
    task.stop()


if __name__ == "__main__":
    job.main(run, packages=("bytewax",))
