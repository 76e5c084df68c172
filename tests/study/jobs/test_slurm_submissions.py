"""Jobs that are submitted, with larger requests too, and found again; sbatch answers as it is told.

tests/slurm tests the same on Slurm's daemons.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.grid import Grid
from study.jobs import slurm_executor, slurm_jobs, slurm_queue, submitted
from study.jobs.decisions import Decisions
from study.jobs.slurm_commands import Answer, name_of_user
from study.jobs.slurm_executor import SlurmExecutor
from study.jobs.slurm_jobs import Listing, QueuedJob
from study.jobs.slurm_queue import SlurmQueue
from study.jobs.slurm_request import Prepared, comment_of_job
from study.jobs.submission import Request
from study.jobs.submitted import Submission, name_process
from study.load import load_study
from tests.study.jobs.stand_ins import Polled, Recorder, check, job_of, retried


@pytest.fixture
def growing(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> tuple[Polled, Any, list[str]]:
    """An executor that has submitted a job with 30 minutes and asks for 60; and the requests. The
    job's ids are 7, 8 and so on."""
    info, _ = job_of(grid)
    asked: list[str] = []

    def prepare(job: Any) -> Prepared:
        log = executor.slurm_logdir / "%j.log"
        command = ["sbatch", "-t", "60" if asked else "30"]
        return Prepared(command, "", "test/one/1", comment_of_job(job), None, log)

    def ask(command: list[str], stdin: str) -> Answer:
        asked.append(command[2])
        return Answer(0, f"{6 + len(asked)}\n", "")

    monkeypatch.setattr(executor, "prepare", prepare)
    monkeypatch.setattr(slurm_executor, "ask", ask)
    assert executor._submit(Request(info.job, "")).code == 0
    return executor, info.job, asked


def test_a_request_that_has_grown_beyond_a_limit_is_made_as_before(
    growing: tuple[Polled, Any, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    executor, job, asked = growing
    said = "sbatch: error: Batch job submission failed: Requested time limit is invalid\n"

    def ask(command: list[str], stdin: str) -> Answer:
        asked.append(command[2])
        return Answer(1, "", said) if int(command[2]) > 30 else Answer(0, "8\n", "")

    monkeypatch.setattr(slurm_executor, "ask", ask)
    assert executor._submit(Request(job, "", "time limit, saved at step 12")).code == 0
    assert asked == ["30", "60", "30"]
    told = capsys.readouterr().err
    assert f"{comment_of_job(job)}: Slurm grants no more than 30 minutes (Batch job sub" in told
    assert "time limit, saved at step 12, continues as Slurm job 8." in told
    # It is not tried again with more.
    assert executor._submit(Request(job, "")).code == 0
    assert asked == ["30", "60", "30", "30"]


class Told(Decisions, Recorder):
    """The decisions about a failed job."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid


def test_a_job_that_is_lost_is_retried_though_one_before_it_had_failed_for_good(
    growing: tuple[Polled, Any, list[str]], grid: Grid
) -> None:
    executor, job, _ = growing
    failure = {"message": "no memory", "retry": False}
    Path(grid[0].folder, "failure.json").write_text(json.dumps(failure))
    assert executor._submit(Request(job, "")).code == 0
    told = Told(grid)
    told.report_job_error(executor._queue.jobs["8"], msg="Slurm job 8 ended: NODE_FAIL.")
    assert told.errors == ["Slurm job 8 ended: NODE_FAIL.\n "]
    assert retried(job)


def test_a_request_that_is_refused_as_it_was_is_refused(
    growing: tuple[Polled, Any, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, job, asked = growing

    def ask(command: list[str], stdin: str) -> Answer:
        asked.append(command[2])
        return Answer(1, "", "sbatch: error: Invalid account\n")

    monkeypatch.setattr(slurm_executor, "ask", ask)
    assert executor._submit(Request(job, "")).message == "Invalid account"
    assert asked == ["30", "60", "30"]


@pytest.mark.parametrize(
    ("reason", "replaced"), [("QOSMaxWallDurationPerJobLimit", True), ("Priority", False)]
)
def test_a_job_that_waits_in_vain_as_its_request_has_grown_is_replaced(
    growing: tuple[Polled, Any, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    replaced: bool,
) -> None:
    executor, job, asked = growing
    executor._queue.remove(executor._queue.jobs["7"])
    assert executor._submit(Request(job, "")).code == 0
    assert asked == ["30", "60"]
    cancelled: list[str] = []
    monkeypatch.setattr(slurm_executor, "cancel_jobs", lambda ids, cluster: cancelled.extend(ids))
    (info,) = executor._queue.jobs.values()
    queued = {(None, "8"): QueuedJob("8", "PENDING", reason, "name", "comment")}
    monkeypatch.setattr(slurm_queue, "list_jobs", lambda clusters, users: Listing(queued))
    executor._queue._next_poll = 0.0

    assert check(executor, [info]) == ([] if replaced else [info])
    assert cancelled == (["8"] if replaced else [])
    for request in executor.again:
        assert request.reason == "Slurm job 8 would never have started"
        assert executor._submit(request).code == 0
    assert asked == (["30", "60", "30"] if replaced else ["30", "60"])


@pytest.mark.parametrize(
    ("asked", "answer", "label"),
    [(None, "7", "7"), ("alpha,beta", "7;beta", "7@beta"), ("alpha", "7;alpha", "7@alpha")],
)
def test_a_job_is_known_by_the_slurm_cluster_that_sbatch_names(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, asked: str | None, answer: str, label: str
) -> None:
    executor = Polled(grid)
    info, _ = job_of(grid)
    prepared = Prepared(["sbatch"], "", "one", "cell", asked, executor.slurm_logdir / "%j.log")
    monkeypatch.setattr(executor, "prepare", lambda job: prepared)
    monkeypatch.setattr(slurm_executor, "ask", lambda command, stdin: Answer(0, answer, ""))
    assert executor._submit(Request(info.job, "")).code == 0
    assert list(executor._queue.jobs) == [label]
    assert [known.label for known in executor._record.submissions()] == [label]


def test_a_job_whose_submission_got_no_answer_is_known_by_its_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A study of the same name may be run from another folder, with the same cells."""
    executor = object.__new__(SlurmExecutor)
    executor._doubtful, executor._queue = {"cell one"}, SlurmQueue(Path(), 20.0)
    prepared = Prepared([], "", "study/one/1", "cell one", None, Path("/here/logs/%j.log"))
    files = {"44": "/elsewhere/logs/44.log", "45": "/here/logs/45.log"}
    listed = {
        (None, job_id): QueuedJob(job_id, "RUNNING", "", "study/one/1", "cell one")
        for job_id in files
    }
    monkeypatch.setattr(slurm_executor, "list_jobs", lambda clusters: Listing(listed))
    monkeypatch.setattr(slurm_executor, "find_output_file", lambda job_id, cluster: files[job_id])
    answer = executor._recover(prepared)
    assert answer is not None
    assert (answer.code, answer.out) == (0, "45")
    del listed[None, "45"]
    assert executor._recover(prepared) is None


def test_a_job_whose_submission_got_no_answer_is_found_after_another_was_submitted(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run that has saved is to be continued first. A second job would hold GPUs while it
    waits for the first."""
    log = executor.slurm_logdir / "%j.log"
    lost = Answer(1, "", "no answer within 60 s")
    answers = [lost, Answer(0, "8\n", "")]
    one, other = job_of(grid)[0].job, job_of(grid, number=1)[0].job

    def prepare(job: Any) -> Prepared:
        return Prepared(["sbatch"], "", "test/one/1", comment_of_job(job), None, log)

    listed = {(None, "7"): QueuedJob("7", "RUNNING", "", "test/one/1", comment_of_job(one))}
    monkeypatch.setattr(executor, "prepare", prepare)
    monkeypatch.setattr(slurm_executor, "ask", lambda command, stdin: answers.pop(0))
    monkeypatch.setattr(slurm_executor, "list_jobs", lambda clusters: Listing(listed))
    monkeypatch.setattr(
        slurm_executor, "find_output_file", lambda job_id, cluster: str(log).replace("%j", job_id)
    )
    codes = [executor._submit(Request(job, "")).code for job in (one, other, one)]
    assert codes == [1, 0, 0]
    assert sorted(executor._queue.jobs) == ["7", "8"]


def test_a_file_system_that_is_full_after_a_submission_does_not_end_the_submissions(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = Polled(grid)
    info, folder = job_of(grid)
    (folder / "slurm_logs").write_text("no folder")  # nothing can be linked in it
    executor.slurm_logdir.joinpath("submitted.jsonl").mkdir()
    reported: list[Any] = []
    monkeypatch.setattr(executor, "report_job_submission", reported.append)
    monkeypatch.setattr(slurm_executor, "ask", lambda command, stdin: Answer(0, "7\n", ""))
    log = executor.slurm_logdir / "%j.log"
    prepared = Prepared(["sbatch"], "", "test/one/1", "cell one", None, log)
    monkeypatch.setattr(executor, "prepare", lambda job: prepared)
    assert executor._submit(Request(info.job, "")).code == 0
    assert [job.external_jobid for job in reported] == ["7"]
    said = capsys.readouterr().err
    assert "submitted.jsonl: cannot be written: Is a directory. If Snakemake is started" in said
    assert (
        f"slurm_logs/7.log: cannot be created: File exists. It would link to {log.parent}" in said
    )


def test_a_restart_asks_slurm_once_for_all_jobs_and_so_does_a_poll(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = yaml.safe_load(Path("config/config.yaml").read_text()) | {"results_dir": str(tmp_path)}
    (entry, *_) = study["grid"]
    study["grid"] = [entry | {"model": "nano", "gpus": 1, "seed": list(range(301))}]
    grid = Grid(load_study(study))
    executor = Polled(grid)
    new, *jobs = [job_of(grid, number=number)[0].job for number in range(301)]

    def prepare(job: Any) -> Prepared:
        log = executor.slurm_logdir / "%j.log"
        return Prepared([], "", executor._name(job), comment_of_job(job), None, log)

    monkeypatch.setattr(executor, "prepare", prepare)
    lines = []
    for number, job in enumerate(jobs):
        made = prepare(job)
        executor._record.add(
            Submission(str(number), None, made.name, made.comment, made.digest, f"{number}.log")
        )
        lines.append(f"{number}|PENDING|0:00|30:00|Priority|{made.name}|{made.comment}\n")
    asked: list[str] = []

    def ask(command: list[str], stdin: str | None = None) -> Answer:
        asked.append(command[0])
        return Answer(0, "".join(lines), "")

    for module in (slurm_jobs, slurm_executor):
        monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(slurm_queue, "list_jobs", slurm_jobs.list_jobs)
    executor.find_earlier_jobs([new, *jobs])
    executor.run_jobs([new, *jobs])
    assert executor.again[-1].job is new  # the queue may be full of those that are in it
    for request in executor.again[:-1]:
        assert executor._submit(request).code == 0
    assert len(executor._queue.jobs) == 300
    assert asked == ["squeue"]

    active = list(executor._queue.jobs.values())
    assert check(executor, active) == active
    assert asked == ["squeue"] * 2


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("scaling", "scaling-2"),
        (
            "one-study-in-two-halves-of-the-same-size-a",
            "one-study-in-two-halves-of-the-same-size-b",
        ),
    ],
)
def test_studies_whose_names_share_a_prefix_do_not_match_each_others_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: str, theirs: str
) -> None:
    """Long names are cut to what squeue shows, which leaves both studies' jobs the same name."""
    study = yaml.safe_load(Path("config/config.yaml").read_text()) | {"results_dir": str(tmp_path)}
    here, there = (Polled(Grid(load_study({**study, "study": name}))) for name in (ours, theirs))
    job = job_of(here.grid)[0].job
    same_name = here._name(job) == there._name(job)
    assert same_name == (len(ours) > 30)
    log = there.slurm_logdir / "7.log"
    there._record.add(Submission("7", None, there._name(job), "cell one", "digest", str(log)))
    listed = {(None, "7"): QueuedJob("7", "RUNNING", "None", there._name(job), "cell one")}
    for module in (submitted, slurm_executor):
        monkeypatch.setattr(module, "list_jobs", lambda clusters, users=(): Listing(listed))
    monkeypatch.setattr(slurm_executor, "find_output_file", lambda job_id, cluster: str(log))
    for executor, finds in ((here, False), (there, True)):
        log_file = executor.slurm_logdir / "%j.log"
        prepared = Prepared([], "", executor._name(job), "cell one", None, log_file)
        # By a restart, and after a submission without an answer.
        executor.find_earlier_jobs([job])
        assert executor._keep_earlier(job, prepared) == finds
        executor._queue.jobs.clear()
        executor._doubtful = {prepared.comment}
        assert (executor._recover(prepared) is not None) == finds


@pytest.mark.parametrize(("by", "kept"), [("another", True), ("one that ended", False)])
def test_a_job_that_waits_with_another_request_is_left_to_a_snakemake_that_watches_it(
    grid: Grid, monkeypatch: pytest.MonkeyPatch, by: str, kept: bool
) -> None:
    """Of a second clone, say; the parent of this process runs as long as it does."""
    cancelled: list[str] = []
    monkeypatch.setattr(submitted, "cancel_jobs", lambda ids, cluster: cancelled.extend(ids))
    executor = Polled(grid)
    job = job_of(grid)[0].job
    process = name_process(os.getppid()) if by == "another" else "elsewhere 1 1"
    log = str(executor.slurm_logdir / "7.log")
    name = executor._name(job)
    known = Submission("7", None, name, "cell one", "digest", log, name_of_user(), process)
    executor._earlier = {"cell one": (known, QueuedJob("7", "PENDING", "None", name, "cell one"))}
    prepared = Prepared([], "", name, "cell one", None, executor.slurm_logdir / "%j.log")
    assert executor._keep_earlier(job, prepared) is kept
    assert cancelled == ([] if kept else ["7"])
