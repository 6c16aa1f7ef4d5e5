import pytest
from benchmarks.job import Job

from benchmarks import work


def test_a_job_whose_messages_all_arrived_unchanged_has_a_result() -> None:
    job = Job(50)
    for segment in reversed(list(job.segments())):
        work.validate(segment)
        job.tally.add(work.transform(segment))
    assert job.is_done
    assert job.result()["messages"] == 50


def test_a_job_that_lost_a_message_has_no_result() -> None:
    job = Job(50)
    for segment in list(job.segments())[1:]:
        job.tally.add(work.transform(segment))
    assert not job.is_done
    with pytest.raises(ValueError, match="49 messages"):
        job.result()


def test_a_job_that_skipped_the_transformation_of_a_message_has_no_result() -> None:
    job = Job(3)
    captions = [work.transform(segment) for segment in job.segments()]
    captions[1] = {**captions[1], "text": captions[1]["text"].lower()}
    for caption in captions:
        job.tally.add(caption)
    with pytest.raises(ValueError, match="checksum"):
        job.result()


@pytest.mark.parametrize(
    "fault", [{"text": " "}, {"end": 0.0}, {"confidence": 1.5}, {"language": "english"}, {"start": -1.0}]
)
def test_a_segment_with_a_fault_is_refused(fault: dict[str, object]) -> None:
    good = work.segment(7)
    work.validate(good)
    with pytest.raises(work.InvalidSegment):
        work.validate(good | fault)
