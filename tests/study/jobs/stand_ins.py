"""Executors without Snakemake, the part of its jobs that they use, and a squeue that answers as it
is told."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake.iocontainers import InputFiles, Wildcards

from study.grid import Grid
from study.jobs import sbatch_answers, slurm_jobs, slurm_queue
from study.jobs.grants import Grants
from study.jobs.job_script import ENDED
from study.jobs.progress import Progress
from study.jobs.slurm_commands import Answer, name_of_user
from study.jobs.slurm_executor import SlurmExecutor
from study.jobs.slurm_jobs import Listing, QueuedJob
from study.jobs.slurm_queue import SlurmQueue, WatchedJob
from study.jobs.submitted import Record, Submission
from study.jobs.verdict import GONE

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

    def run_job_pre(self, job: Any) -> None: ...


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
        input=InputFiles(fromdict={"data": "data.json"}),
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
        self._shown, self._doubtful, self._earlier = set(), set(), {}
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


def watched(
    executor: Polled,
    grid: Grid,
    job_id: str = "7",
    cluster: str | None = None,
    user: str | None = None,
    number: int = 0,
) -> tuple[WatchedJob, Path]:
    """Return a cell's job in the executor's queue, by default ours, and its run's folder."""
    job, folder = job_of(grid, number=number)
    log = str(executor.slurm_logdir / f"{job_id}.log")
    whose = user or name_of_user()
    made = Submission(job_id, cluster, "name", "comment", "digest", log, whose)
    info = WatchedJob(job.job, job_id, made=made, cell=grid[number], kind=())
    executor._queue.add(info)
    return info, folder


def poll(executor: Polled, info: Any, state: str | None, **more: Any) -> bool:
    """Have the executor ask squeue (None: no answer); return whether the job is active."""
    queued = {} if state in (None, GONE) else {(None, "7"): queued_job(str(state), **more)}
    answer = Listing(queued, frozenset([None] if state is None else []))
    slurm_queue.list_jobs = lambda clusters, users: answer  # type: ignore[assignment]
    executor._queue._next_poll = 0.0
    return bool(check(executor, [info]))


def check(executor: Polled, active: list[Any]) -> list[Any]:
    """Have the executor look at jobs, as Snakemake does; return those that are active."""

    async def look() -> list[Any]:
        return [one async for one in executor.check_active_jobs(active)]

    return asyncio.run(look())


def queued_job(state: str, reason: str = "None", **more: Any) -> QueuedJob:
    return QueuedJob("7", state, reason, "name", "comment", **more)


def ask_instead(monkeypatch: pytest.MonkeyPatch, ask: Callable[..., Answer]) -> None:
    """Have a function asked in place of Slurm's commands."""
    for module in (slurm_jobs, sbatch_answers):
        monkeypatch.setattr(module, "ask", ask)


def answering(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> list[Sequence[str]]:
    """Give every command the same answer; return the commands as they are asked."""
    asked: list[Sequence[str]] = []

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        asked.append(command)
        return answer

    ask_instead(monkeypatch, ask)
    return asked
