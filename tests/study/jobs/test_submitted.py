"""The record of submitted jobs, with a squeue that answers as it is told."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError

from study.jobs import submitted
from study.jobs.slurm_commands import name_of_user
from study.jobs.slurm_jobs import Listing, QueuedJob
from study.jobs.submitted import Record, Submission, name_process


def submission(
    job_id: str, comment: str, user: str | None = None, cluster: str | None = None
) -> Submission:
    log = f"/logs/{job_id}.log"
    who = user or name_of_user()
    return Submission(job_id, cluster, "study/one/1", comment, "digest", log, who)


def queued(job_id: str, state: str, name: str = "study/one/1") -> QueuedJob:
    return QueuedJob(job_id, state, "None", name, "")


def answer(
    monkeypatch: pytest.MonkeyPatch,
    listed: dict[tuple[str | None, str], QueuedJob],
    silent: Iterable[str | None] = (),
) -> None:
    """Have squeue list these jobs; `silent` clusters do not answer."""
    listing = Listing(listed, frozenset(silent))
    monkeypatch.setattr(submitted, "list_jobs", lambda clusters, users: listing)


def test_a_line_that_was_cut_off_swallows_no_other(tmp_path: Path) -> None:
    """A file system that was full: the job after it would have been submitted again."""
    path = tmp_path / "submitted.jsonl"
    record = Record(path)
    record.add(submission("1", "one"))
    for cut in ('{"job_id": "2", "clus', "{"):
        path.write_text(path.read_text() + cut)
        record.add(submission("3", "three"))
    assert [known.job_id for known in record.submissions()] == ["1", "3", "3"]
    path.write_text("{")
    record.add(submission("4", "four"))
    assert [known.job_id for known in record.submissions()] == ["4"]


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
    answer(monkeypatch, listed)
    monkeypatch.setattr(submitted, "cancel_jobs", lambda ids, cluster: cancelled.extend(ids))
    found = record.find_queued({"runs"})
    assert {work: known.job_id for work, (known, _) in found.items()} == {"runs": "1", "waits": "4"}
    assert cancelled == ["2", "3"]
    # The others are no longer in the file, and what was found is as it was written.
    assert len(path.read_text().splitlines()) == 4
    assert found["runs"] == (submission("1", "runs"), listed[None, "1"])


def test_nothing_is_submitted_twice_because_slurm_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "submitted.jsonl")
    assert record.find_queued({"runs"}) == {}  # nothing was submitted: Slurm is not asked
    answer(monkeypatch, {}, silent=[None])
    record.add(submission("1", "runs"))
    with pytest.raises(WorkflowError, match=r"squeue does not answer: .*Start again when it does"):
        record.find_queued({"runs"})


def test_a_slurm_cluster_that_does_not_answer_matters_to_its_own_jobs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "submitted.jsonl")
    record.add(submission("1", "here"))
    record.add(submission("2", "there", cluster="nowhere"))
    answer(monkeypatch, {(None, "1"): queued("1", "RUNNING")}, silent=["nowhere"])
    assert list(record.find_queued({"here"})) == ["here"]
    assert len(record.submissions()) == 2  # the other may still run
    with pytest.raises(WorkflowError, match=r"squeue does not answer \(cluster nowhere\)"):
        record.find_queued({"here", "there"})


def test_a_job_that_is_ending_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C, Slurm gives its run KillWait to save; it ends as CANCELLED."""
    record = Record(tmp_path / "submitted.jsonl")
    record.add(submission("1", "runs"))
    answer(monkeypatch, {(None, "1"): queued("1", "COMPLETING")})
    assert record.find_queued({"runs"}) == {}


def test_another_users_jobs_are_found_and_stay_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "submitted.jsonl")
    for number, (work, user) in enumerate(
        [("runs", "ada"), ("waits", "ada"), ("waits", None), ("hidden", "ada")], start=1
    ):
        record.add(submission(str(number), work, user))
    answers = [queued("1", "RUNNING"), queued("2", "PENDING"), queued("3", "PENDING")]
    asked: list[set[str]] = []

    def list_jobs(clusters: set[str | None], users: set[str]) -> Listing:
        asked.append(users)
        return Listing({(None, job.job_id): job for job in answers})

    monkeypatch.setattr(submitted, "list_jobs", list_jobs)
    cancelled: list[str] = []
    monkeypatch.setattr(submitted, "cancel_jobs", lambda ids, cluster: cancelled.extend(ids))
    found = record.find_queued({"runs", "waits"})
    assert asked == [{"ada", name_of_user()}]
    assert {work: known.user for work, (known, _) in found.items()} == {
        "runs": "ada",
        "waits": "ada",
    }
    assert cancelled == ["3"]
    assert [known.job_id for known in record.submissions()] == ["1", "2", "3", "4"]


def test_lines_of_earlier_versions_are_the_files_owners(tmp_path: Path) -> None:
    path = tmp_path / "submitted.jsonl"
    line = {"job_id": "1", "cluster": None, "name": "n", "comment": "c", "digest": "d", "log": "l"}
    path.write_text(json.dumps(line) + "\n")
    (known,) = Record(path).submissions()
    assert known.is_ours


def test_a_record_that_cannot_be_written_is_told_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job is in the queue by then."""
    path = tmp_path / "submitted.jsonl"
    path.mkdir()
    Record(path).add(submission("1", "runs"))
    assert f"{path}: cannot be written: Is a directory." in capsys.readouterr().err


def test_a_record_that_cannot_be_shortened_is_used_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(tmp_path / "submitted.jsonl")
    record.add(submission("1", "ended"))
    record.add(submission("2", "runs"))

    def write_atomically(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(submitted, "write_atomically", write_atomically)
    answer(monkeypatch, {(None, "2"): queued("2", "RUNNING")})
    assert list(record.find_queued({"runs", "ended"})) == ["runs"]
    assert len(record.submissions()) == 2


def test_a_job_is_watched_as_long_as_the_process_that_submitted_it_runs() -> None:
    """Another one that has got its pid meanwhile is none."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        made = replace(submission("1", "one"), process=name_process(process.pid))
        assert made.is_watched
        host, pid, start = str(made.process).split(" ")
        for other in (f"{host} {pid} {int(start) + 1}", f"elsewhere {pid} {start}", "x", None):
            assert not replace(made, process=other).is_watched
        process.communicate(b"\n")
    assert not made.is_watched
    assert not replace(made, process=name_process(os.getpid())).is_watched
