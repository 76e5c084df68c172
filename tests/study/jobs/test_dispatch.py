"""Decisions on failed jobs. tests/slurm tests them with a real executor."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from study.grid import Grid
from study.jobs.dispatch import NO_CONTROLLER, Attachment
from study.load import load_study

RETRIES = 2


class Executor:
    """The part of Snakemake's executor that an attachment uses."""

    def __init__(self, answers: list[bool] | None = None) -> None:
        self.run_uuid = "uuid"
        self.errors: list[str | None] = []
        self.ended: list[Any] = []
        self.answers = answers or []

    def report_job_error(self, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        self.errors.append(msg)

    def report_job_success(self, job_info: Any) -> None:
        self.ended.append(job_info)

    def report_job_submission(self, job_info: Any) -> None: ...

    def run_job(self, job: Any) -> None: ...

    async def check_active_jobs(self, jobs: list[Any]) -> AsyncIterator[Any]:
        """Answer as the plugin does: yield nothing if Slurm gave no answer."""
        if self.answers.pop(0):
            for job in jobs:
                if job.finished:
                    self.report_job_success(job)
                else:
                    yield job


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    study = yaml.safe_load(Path("config/config.yaml").read_text())
    return Grid(load_study({**study, "results_dir": str(tmp_path)}))


def failed_job(grid: Grid, attempt: int = 1) -> Any:
    """Return the used part of a training job, and its run's folder."""
    cell = grid[0]
    Path(cell.folder).mkdir(parents=True, exist_ok=True)
    job = SimpleNamespace(
        rule=SimpleNamespace(name="train"),
        wildcards=SimpleNamespace(**{key: str(value) for key, value in cell.labels.items()}),
        attempt=attempt,
        restart_times=RETRIES,
        is_group=lambda: False,
    )
    return SimpleNamespace(job=job, external_jobid="7", finished=False), Path(cell.folder)


def retried(job: Any) -> bool:
    """Return whether Snakemake would retry the job, as in JobScheduler._handle_error."""
    return job.restart_times > job.attempt - 1


def test_a_failure_is_retried_and_its_message_shown(grid: Grid) -> None:
    executor = Executor()
    Attachment(executor, grid, on_slurm=False)
    info, folder = failed_job(grid)
    (folder / "failure.json").write_text(json.dumps({"message": "rank 1 died", "retry": True}))
    executor.report_job_error(info, msg="it failed")
    assert executor.errors[0] is not None
    assert executor.errors[0].startswith("it failed\nrank 1 died")
    assert retried(info.job)


def test_a_failure_that_a_retry_cannot_fix_is_not_retried(grid: Grid) -> None:
    executor = Executor()
    Attachment(executor, grid, on_slurm=False)
    info, folder = failed_job(grid)
    (folder / "failure.json").write_text(json.dumps({"message": "no memory", "retry": False}))
    executor.report_job_error(info)
    assert "no memory Not retried." in str(executor.errors[0])
    assert not retried(info.job)


def test_a_cancelled_job_is_not_retried(grid: Grid) -> None:
    executor = Executor()
    Attachment(executor, grid, on_slurm=False)
    info, _ = failed_job(grid)
    executor.report_job_error(info, msg="job '7' failed, SLURM status is: 'CANCELLED'. ")
    assert not retried(info.job)


def test_a_missing_controller_uses_up_no_retry(grid: Grid) -> None:
    executor = Executor()
    Attachment(executor, grid, on_slurm=False)
    info, _ = failed_job(grid, attempt=RETRIES + 1)  # the last one
    executor.report_job_error(info, msg=f"SLURM sbatch failed: {NO_CONTROLLER}")
    assert retried(info.job)


@pytest.mark.parametrize("written", ["", "{", '{"message": 3}'])
def test_an_incomplete_failure_json_changes_nothing(grid: Grid, written: str) -> None:
    executor = Executor()
    Attachment(executor, grid, on_slurm=False)
    info, folder = failed_job(grid)
    (folder / "failure.json").write_text(written)
    executor.report_job_error(info)
    assert executor.errors == [None]
    assert retried(info.job)


def test_jobs_are_not_forgotten_if_slurm_does_not_answer(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    executor = Executor(answers=[False, True])
    monkeypatch.setattr("study.jobs.dispatch._ask_slurm", lambda _: SimpleNamespace(stdout=""))
    Attachment(executor, grid, on_slurm=True)
    one, _ = failed_job(grid)
    two, _ = failed_job(grid)

    async def check(jobs: list[Any]) -> list[Any]:
        return [job async for job in executor.check_active_jobs(jobs)]

    assert asyncio.run(check([one, two])) == [one, two]
    one.finished = True
    assert asyncio.run(check([one, two])) == [two]
    assert executor.ended == [one]
