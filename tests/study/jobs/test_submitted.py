"""The record of submitted jobs, with a squeue that answers as it is told."""

from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from study.jobs import submitted
from study.jobs.slurm_commands import QueuedJob
from study.jobs.submitted import Record, Submission


def submission(job_id: str, comment: str) -> Submission:
    return Submission(job_id, None, "study/one/1", comment, "digest", f"/logs/{job_id}.log")


def queued(job_id: str, state: str, name: str = "study/one/1") -> QueuedJob:
    return QueuedJob(job_id, state, "None", name, "")


def test_the_jobs_in_the_queue_are_found_once_for_each_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "submitted.jsonl"
    record = Record(path)
    for number, work in enumerate(("runs", "runs", "waits", "waits", "ended", "reused"), start=1):
        record.add(submission(str(number), work))
    with path.open("a") as file:
        file.write('{"job_id": "7", "clus')
    answers = [
        *(queued("1", "RUNNING"), queued("2", "PENDING"), queued("3", "PENDING")),
        *(queued("4", "RUNNING"), queued("5", "COMPLETED"), queued("6", "RUNNING", "another")),
    ]
    listed = {(None, job.job_id): job for job in answers}
    cancelled: list[str] = []
    monkeypatch.setattr(submitted, "list_jobs", lambda clusters: listed)
    monkeypatch.setattr(submitted, "cancel_job", lambda job_id, cluster: cancelled.append(job_id))
    found = record.find_queued([None])
    assert {work: known.job_id for work, (known, _) in found.items()} == {"runs": "1", "waits": "4"}
    assert cancelled == ["2", "3"]
    # The others are no longer in the file, and what was found is as it was written.
    assert len(path.read_text().splitlines()) == 4
    assert found["runs"] == (submission("1", "runs"), listed[None, "1"])


def test_nothing_is_submitted_twice_because_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submitted, "list_jobs", lambda clusters: None)
    record = Record(tmp_path / "submitted.jsonl")
    assert record.find_queued([None]) == {}  # nothing was submitted: Slurm is not asked
    record.add(submission("1", "runs"))
    with pytest.raises(WorkflowError, match="Start again when squeue answers"):
        record.find_queued([None])


def test_a_record_that_cannot_be_written_is_told_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job is in the queue by then."""
    path = tmp_path / "submitted.jsonl"
    path.mkdir()
    Record(path).add(submission("1", "runs"))
    assert f"{path}: cannot be written: Is a directory." in capsys.readouterr().err
