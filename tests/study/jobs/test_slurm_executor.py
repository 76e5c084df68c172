"""Decisions on jobs that have ended, with a squeue that answers as it is told.

tests/slurm tests the same on Slurm's daemons.
"""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from snakemake.iocontainers import Wildcards

from study.grid import Grid
from study.jobs import slurm_commands, slurm_executor, slurm_queue, submitted
from study.jobs.decisions import Decisions
from study.jobs.grants import Grants
from study.jobs.job_script import ENDED
from study.jobs.progress import Progress
from study.jobs.slurm_commands import Answer, Listing, QueuedJob, name_of_user
from study.jobs.slurm_executor import SlurmExecutor
from study.jobs.slurm_queue import SlurmQueue
from study.jobs.slurm_request import Prepared, comment_of_job
from study.jobs.submission import Request
from study.jobs.submitted import Record, Submission
from study.jobs.verdict import GONE, find_shortage
from study.load import load_study

RETRIES = 2


class Recorder:
    """The part of Snakemake's executor that the decisions end in."""

    def __init__(self) -> None:
        self.errors: list[str | None] = []
        self.ended: list[Any] = []

    def report_job_error(self, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        self.errors.append(msg)

    def report_job_success(self, job_info: Any) -> None:
        self.ended.append(job_info)


class Local(Decisions, Recorder):
    """A local executor that runs nothing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid


class Job(SimpleNamespace):
    """As Snakemake's jobs, one is equal to itself alone."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


def job_of(grid: Grid, attempt: int = 1, number: int = 0) -> Any:
    """Return the used part of a cell's training job, and its run's folder."""
    cell = grid[number]
    Path(cell.folder).mkdir(parents=True, exist_ok=True)
    job = Job(
        name="train",
        output=[f"{grid[number].folder}/completed"],
        wildcards=Wildcards(fromdict={key: str(value) for key, value in cell.labels.items()}),
        resources={},
        attempt=attempt,
        restart_times=RETRIES,
        is_group=lambda: False,
    )
    return SimpleNamespace(job=job, external_jobid="7"), Path(cell.folder)


def retried(job: Any) -> bool:
    """Return whether Snakemake would retry the job, as in JobScheduler._handle_error."""
    return job.restart_times > job.attempt - 1


def test_a_failure_is_retried_and_its_message_shown(grid: Grid) -> None:
    executor = Local(grid)
    info, folder = job_of(grid)
    (folder / "failure.json").write_text(json.dumps({"message": "rank 1 died", "retry": True}))
    executor.report_job_error(info, msg="it failed")
    assert executor.errors[0] is not None
    assert executor.errors[0].startswith("it failed\nrank 1 died")
    assert retried(info.job)


def test_a_failure_that_a_retry_cannot_fix_is_not_retried(grid: Grid) -> None:
    executor = Local(grid)
    info, folder = job_of(grid)
    (folder / "failure.json").write_text(json.dumps({"message": "no memory", "retry": False}))
    executor.report_job_error(info)
    assert "no memory Not retried." in str(executor.errors[0])
    assert not retried(info.job)


@pytest.mark.parametrize("written", ["", "{", '{"message": 3}'])
def test_an_incomplete_failure_json_changes_nothing(grid: Grid, written: str) -> None:
    executor = Local(grid)
    info, folder = job_of(grid)
    (folder / "failure.json").write_text(written)
    executor.report_job_error(info)
    assert executor.errors == [None]
    assert retried(info.job)


def test_exit_code_0_without_a_finished_run_is_an_error(grid: Grid) -> None:
    executor = Local(grid)
    info, folder = job_of(grid)
    executor.report_job_success(info)
    assert "the job exited with code 0, but the run is not complete" in str(executor.errors[0])
    complete(grid, folder)
    executor.report_job_success(info)
    assert executor.ended == [info]


def test_a_run_with_the_settings_of_another_invocation_is_told_as_that(grid: Grid) -> None:
    """Two people with copies of one study that differ in `steps`, and one folder of results."""
    executor = Local(grid)
    info, folder = job_of(grid)
    complete(grid, folder)
    summary = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(summary | {"fingerprint": "0" * 16}))
    theirs = grid[0].run.model_copy(update={"steps": 80})
    (folder / "run.yaml").write_text(theirs.to_yaml())
    executor.report_job_success(info)
    told = f"its folder has a run with other settings (steps 80 -> {grid[0].run.steps}), as if"
    assert told in str(executor.errors[0])
    assert executor.ended == []


def complete(grid: Grid, folder: Path, number: int = 0) -> None:
    summary = {"status": "completed", "fingerprint": grid[number].fingerprint}
    (folder / "run.json").write_text(json.dumps(summary | {"params": 1, "attempts": [attempt()]}))


def attempt(status: str = "completed") -> dict[str, Any]:
    return {"attempt": 1, "start": "2026-11-26", "fingerprint": "x", "status": status}


class Waiting:
    """The part of `Submissions` that the end of a job reaches."""

    def __init__(self, again: list[Any]) -> None:
        self._again = again

    def __len__(self) -> int:
        return 0

    def add(self, request: Any, first: bool) -> None:
        self._again.insert(0 if first else len(self._again), request)

    def job_ended(self) -> None: ...


class Polled(Recorder, SlurmExecutor):
    """A Slurm executor without Snakemake and without threads."""

    def __init__(self, grid: Grid) -> None:
        Recorder.__init__(self)
        self.grid = grid
        self.slurm_logdir = Path(grid.study.folder, "slurm_logs")
        (self.slurm_logdir / ENDED).mkdir(parents=True)
        self._queue = SlurmQueue(self.slurm_logdir, first_poll_s=20.0)
        self._grants = Grants()
        self._shown, self._doubtful, self._earlier = set(), "", {}
        self._record = Record(self.slurm_logdir / "submitted.jsonl")
        self._leaving = SimpleNamespace(is_set=lambda: False)  # type: ignore[assignment]
        self.progress = Progress(grid)
        self.again: list[Any] = []
        self.logs_shown: list[str] = []
        self._submissions = Waiting(self.again)  # type: ignore[assignment]
        settings = SimpleNamespace(latency_wait=60)
        self.workflow = SimpleNamespace(workdir_init="/here", execution_settings=settings)

    # What Snakemake is told: the decisions about the run's files come first.
    def report_job_error(self, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        self.errors.append(msg)
        self.logs_shown += kwargs.get("aux_logs", [])

    def report_job_submission(self, job_info: Any, register_job: bool = True) -> None: ...

    def run_job_pre(self, job: Any) -> None: ...


def watched(executor: Polled, grid: Grid) -> Any:
    info, folder = job_of(grid)
    log = executor.slurm_logdir / "7.log"
    aux = {"slurm_logfile": log, "cluster": None, "user": name_of_user(), "grown_from": None}
    info.aux = aux | {"step": 0, "kept": False, "attempts": 0, "kind": ()}
    executor._queue.add(info)
    return info, folder


def poll(executor: Polled, info: Any, state: str | None, **more: Any) -> bool:
    """Have the executor ask squeue (None: no answer); return whether the job is active."""
    queued = {} if state in (None, GONE) else {(None, "7"): queued_job(str(state), **more)}
    answer = Listing(queued, frozenset([None] if state is None else []))
    slurm_queue.list_jobs = lambda clusters, users: answer  # type: ignore[assignment]
    executor._queue._next_poll = 0.0

    async def check() -> list[Any]:
        return [one async for one in executor.check_active_jobs([info])]

    return bool(asyncio.run(check()))


def queued_job(state: str, reason: str = "None", **more: Any) -> QueuedJob:
    return QueuedJob("7", state, reason, "name", "comment", **more)


@pytest.fixture
def on_slurm(tmp_path: Path) -> Grid:
    """A grid on a Slurm partition that signals its runs 60 s before their time limit."""
    study = yaml.safe_load(Path("config/studies/lingua.yaml").read_text())
    return Grid(load_study({**study, "results_dir": str(tmp_path)}))


@pytest.fixture
def executor(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> Polled:
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "")
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: "1:0")
    return Polled(grid)


def test_jobs_are_not_forgotten_while_slurm_does_not_answer(executor: Polled, grid: Grid) -> None:
    info, folder = watched(executor, grid)
    assert all(poll(executor, info, None) for _ in range(5))
    complete(grid, folder)
    assert not poll(executor, info, "COMPLETED")
    assert executor.ended == [info]


@pytest.mark.parametrize("known", ["", "COMPLETED"])
def test_a_job_that_squeue_no_longer_lists_is_resolved_in_two_polls(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: known)
    info, folder = watched(executor, grid)
    complete(grid, folder)
    assert poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert executor.ended == [info]


def test_one_that_was_cancelled_is_told_as_such(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "CANCELLED")
    info, _ = watched(executor, grid)
    poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert "It was cancelled and is not retried" in str(executor.errors[0])
    assert not retried(info.job)


def test_one_without_a_trace_is_a_failure_that_is_retried(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    poll(executor, info, GONE)
    assert not poll(executor, info, GONE)
    assert "Slurm no longer lists it" in str(executor.errors[0])
    assert retried(info.job)


def test_a_job_is_noticed_by_its_note_without_asking_slurm(executor: Polled, grid: Grid) -> None:
    info, folder = watched(executor, grid)
    complete(grid, folder)
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    executor._queue._next_poll = float("inf")

    async def check() -> list[Any]:
        return [one async for one in executor.check_active_jobs([info])]

    assert asyncio.run(check()) == []
    assert executor.ended == [info]


@pytest.mark.parametrize("state", ["REQUEUE_HOLD", "STAGE_OUT", "EXPEDITING"])
def test_a_job_is_active_in_all_states_but_ends(executor: Polled, grid: Grid, state: str) -> None:
    """Slurm 25.11 has added EXPEDITING; https://slurm.schedmd.com/job_state_codes.html"""
    info, _ = watched(executor, grid)
    assert all(poll(executor, info, state) for _ in range(3))
    assert executor.errors == []


def test_files_that_appear_late_are_waited_for(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS, where a folder's attributes are kept for up to a minute (acdirmax in nfs(5))."""
    info, folder = watched(executor, grid)
    now = [1000.0]
    monkeypatch.setattr(slurm_executor.time, "monotonic", lambda: now[0])
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    assert poll(executor, info, "COMPLETED")
    now[0] += 59
    assert poll(executor, info, "COMPLETED")
    complete(grid, folder)
    assert not poll(executor, info, "COMPLETED")
    assert (executor.ended, executor.errors) == ([info], [])


def test_what_has_not_appeared_in_that_time_is_missing(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, _ = watched(executor, grid)
    executor.workflow.execution_settings.latency_wait = 0
    assert not poll(executor, info, "COMPLETED")
    assert "It exited with code 0, but its outputs are not complete." in str(executor.errors[0])
    assert retried(info.job)


def test_a_moment_in_the_state_of_a_requeue_is_not_the_end(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    for state in ("RUNNING", "PREEMPTED", "PENDING", "NODE_FAIL", "PENDING", "PREEMPTED"):
        assert poll(executor, info, state)
    assert not poll(executor, info, "PREEMPTED")
    (request,) = executor.again
    assert request.reason == "preempted"
    assert executor.errors == []


@pytest.mark.parametrize(
    ("used_s", "stopped_by", "more"),
    [
        (1745.0, "time limit", 1),
        # Preempted with a time of grace, in which the run saves and ends its job itself.
        (95.0, "stopped", 0),
    ],
)
def test_a_run_that_saved_is_submitted_again_and_is_no_failure(
    on_slurm: Grid, monkeypatch: pytest.MonkeyPatch, used_s: float, stopped_by: str, more: int
) -> None:
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    grid, executor = on_slurm, Polled(on_slurm)
    info, folder = watched(executor, grid)
    summary = {"status": "preempted", "fingerprint": "x", "params": 1, "steps_done": 12}
    (folder / "run.json").write_text(json.dumps(summary | {"attempts": [attempt("preempted")]}))
    before = find_shortage(grid[0].name).time
    assert not poll(executor, info, "FAILED", used_s=used_s, limit_s=1800.0)
    (request,) = executor.again
    assert request.reason == f"{stopped_by}, saved at step 12"
    assert info.job.attempt == 1
    assert executor.errors == []
    assert find_shortage(grid[0].name).time - before == more


def test_a_job_that_fails_before_its_run_starts_has_not_saved(executor: Polled, grid: Grid) -> None:
    """run.json is still that of an attempt before, which had saved."""
    info, folder = watched(executor, grid)
    info.aux |= {"step": 12, "attempts": 1}
    summary = {"status": "preempted", "fingerprint": "x", "params": 1, "steps_done": 12}
    (folder / "run.json").write_text(json.dumps(summary | {"attempts": [attempt("preempted")]}))
    before = find_shortage(grid[0].name)
    assert not poll(executor, info, "FAILED")
    assert executor.errors == ["Slurm job 7 ended: FAILED."]
    assert find_shortage(grid[0].name) == before
    assert retried(info.job)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("97:0", "Slurm job 7 ended: FAILED.\nIts node does not see the folder /here, "),
        ("0:53", "Slurm job 7 ended: FAILED.\nIts node cannot write to "),
    ],
)
def test_a_node_that_does_not_see_the_files_is_told_and_not_retried(
    executor: Polled, grid: Grid, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: code)
    info, _ = watched(executor, grid)
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[0]).startswith(words)
    assert not retried(info.job)


def test_what_was_printed_before_the_run_began_is_shown(executor: Polled, grid: Grid) -> None:
    """Snakemake shows the run's own log, which is empty."""
    info, folder = watched(executor, grid)
    attempt_log = folder / "attempt.log"
    attempt_log.touch()
    info.job.log = [str(attempt_log)]
    log = info.aux["slurm_logfile"]
    log.write_text("line\n" * 100 + "/var/script: line 12: module: command not found\n")
    assert not poll(executor, info, "FAILED")
    said = str(executor.errors[0]).splitlines()
    assert said[:2] == ["Slurm job 7 ended: FAILED.", f"The end of {log}:"]
    assert said[-1] == "/var/script: line 12: module: command not found"
    assert len(said) == 2 + 20
    executor._queue.add(info)
    # Snakemake shows that log, which is a part of this one, but not what Slurm writes.
    attempt_log.write_text("line\n")
    with log.open("a") as file:
        file.write("slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE ***\n")
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[1]).splitlines() == [
        "Slurm job 7 ended: FAILED.",
        f"Slurm's log: {log}",
        "slurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO NODE FAILURE ***",
    ]
    assert executor.logs_shown == []


def test_errors_in_a_file_of_their_own_are_read_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the shell says of a command that does not exist, and Slurm of the memory."""
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: "127:0")
    study = yaml.safe_load(Path("config/studies/lingua.yaml").read_text())
    clusters = yaml.safe_load(Path("config/clusters.yaml").read_text())
    for settings in clusters.values():
        if "slurm" in settings:
            settings["slurm"]["error"] = str(tmp_path / "err-%j.txt")
    grid = Grid(load_study({**study, "clusters": clusters, "results_dir": str(tmp_path)}))
    executor = Polled(grid)
    info, _ = watched(executor, grid)
    errors = tmp_path / "err-7.txt"
    errors.write_text("/var/script: line 12: module: command not found\n")
    assert not poll(executor, info, "FAILED")
    assert str(executor.errors[0]).splitlines() == [
        "Slurm job 7 ended: FAILED.",
        f"The end of {errors}:",
        "/var/script: line 12: module: command not found",
    ]
    errors.write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=7.batch.\n")
    executor._queue.add(info)
    assert not poll(executor, info, "FAILED")
    assert "It exceeded its memory; a retry requests more." in str(executor.errors[1])


def test_a_job_that_only_the_accounting_and_the_controller_list_is_active(
    executor: Polled,
    grid: Grid,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "RUNNING")
    forgotten: list[bool] = []
    monkeypatch.setattr(slurm_queue, "is_forgotten", lambda job_id, cluster: bool(forgotten))
    info, _ = watched(executor, grid)
    assert all(poll(executor, info, GONE) for _ in range(4))
    assert executor.errors == []
    told = "Slurm job 7: not listed by squeue, but RUNNING by the accounting.\n"
    assert capsys.readouterr().err == told
    # The accounting has missed its end.
    forgotten.append(True)
    assert not poll(executor, info, GONE)
    assert "Slurm no longer lists it" in str(executor.errors[0])


def test_jobs_on_a_slurm_cluster_that_answers_are_settled(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    there, _ = job_of(grid, number=1)
    there.external_jobid, there.aux = "8", info.aux | {"cluster": "nowhere"}
    executor._queue.add(there)
    answer = Listing({(None, "7"): queued_job("FAILED")}, frozenset(["nowhere"]))
    slurm_queue.list_jobs = lambda clusters, users: answer  # type: ignore[assignment]
    executor._queue._next_poll = 0.0

    async def check() -> list[Any]:
        return [one async for one in executor.check_active_jobs([info, there])]

    assert asyncio.run(check()) == [there]
    assert executor.errors == ["Slurm job 7 ended: FAILED."]


def test_jobs_of_two_slurm_clusters_with_the_same_id_end_on_their_own(
    executor: Polled, grid: Grid
) -> None:
    here, folder = watched(executor, grid)
    there, other = job_of(grid, number=1)
    there.external_jobid, there.aux = "7", here.aux | {"cluster": "beta"}
    executor._queue.add(there)
    complete(grid, folder)
    complete(grid, other, number=1)

    async def check(active: list[Any]) -> list[Any]:
        return [one async for one in executor.check_active_jobs(active)]

    executor._queue._next_poll = float("inf")
    for label, expected in (("7@beta", there), ("7", here)):
        (executor.slurm_logdir / ENDED / label).write_text("0\n")
        active = list(executor._queue.jobs.values())
        assert asyncio.run(check(active)) == [info for info in active if info is not expected]
        assert executor.ended.pop() is expected
    assert executor._queue.jobs == {}


def test_a_note_that_was_there_before_is_that_of_another_job(executor: Polled, grid: Grid) -> None:
    """Slurm's ids begin again, for example after its state was lost; nobody saw that job end."""
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    executor._queue = SlurmQueue(executor.slurm_logdir, first_poll_s=20.0)
    info, folder = watched(executor, grid)
    assert poll(executor, info, "RUNNING")
    complete(grid, folder)
    (executor.slurm_logdir / ENDED / "7").write_text("0\n")
    assert not poll(executor, info, "RUNNING")
    assert executor.ended == [info]


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


def test_ctrl_c_cancels_our_jobs_on_each_slurm_cluster(
    executor: Polled,
    grid: Grid,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = [("7", None, None), ("9", "other", None), ("8", "other", None), ("10", "other", "ada")]
    jobs = []
    for number, cluster, user in made:
        info, _ = watched(executor, grid)
        info.external_jobid = number
        info.aux = info.aux | {"cluster": cluster, "user": user or name_of_user()}
        jobs.append(info)
    cancelled: dict[str | None, list[str]] = {}

    def cancel_jobs(ids: list[str], cluster: str | None) -> str:
        cancelled[cluster] = ids
        return "no answer" if cluster else ""

    monkeypatch.setattr(slurm_executor, "cancel_jobs", cancel_jobs)
    executor.cancel_jobs(jobs)
    assert cancelled == {None: ["7"], "other": ["8", "9"]}
    told = "Slurm jobs 8, 9 on Slurm cluster other may still run: scancel: no answer\n"
    assert capsys.readouterr().err == told


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

    async def check() -> list[Any]:
        return [one async for one in executor.check_active_jobs([info])]

    assert asyncio.run(check()) == ([] if replaced else [info])
    assert cancelled == (["8"] if replaced else [])
    for request in executor.again:
        assert request.reason == "Slurm job 8 would never have started"
        assert executor._submit(request).code == 0
    assert asked == (["30", "60", "30"] if replaced else ["30", "60"])


def test_polls_are_at_most_a_minute_apart(executor: Polled, grid: Grid) -> None:
    info, _ = watched(executor, grid)
    for _ in range(20):
        poll(executor, info, "RUNNING")
    assert executor._queue.poll_s == 60


def test_a_job_whose_submission_got_no_answer_is_known_by_its_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A study of the same name may be run from another folder, with the same cells."""
    executor = object.__new__(SlurmExecutor)
    executor._doubtful, executor._queue = "study/one/1" + "cell one", SlurmQueue(Path(), 20.0)
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

    for module in (slurm_commands, slurm_executor):
        monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(slurm_queue, "list_jobs", slurm_commands.list_jobs)
    executor.find_earlier_jobs([new, *jobs])
    executor.run_jobs([new, *jobs])
    assert executor.again[-1].job is new  # the queue may be full of those that are in it
    for request in executor.again[:-1]:
        assert executor._submit(request).code == 0
    assert len(executor._queue.jobs) == 300
    assert asked == ["squeue"]

    async def check(active: list[Any]) -> list[Any]:
        return [one async for one in executor.check_active_jobs(active)]

    active = list(executor._queue.jobs.values())
    assert asyncio.run(check(active)) == active
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
        executor._doubtful = prepared.name + prepared.comment
        assert (executor._recover(prepared) is not None) == finds
