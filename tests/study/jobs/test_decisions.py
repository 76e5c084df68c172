"""What becomes of a job that has ended, by what its run has written; both executors ask it."""

import json
import os

import pytest
from snakemake.iocontainers import InputFiles

from study.grid import Grid
from study.jobs.decisions import Decisions
from tests.study.jobs.stand_ins import Recorder, complete, job_of, retried


class Local(Decisions, Recorder):
    """A local executor that runs nothing."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid


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
    assert "no memory\nNot retried." in str(executor.errors[0])
    assert not retried(info.job)


def test_the_failure_of_an_earlier_job_is_not_that_of_one_that_ends_before_its_trainer_starts(
    grid: Grid,
) -> None:
    """As a module that `setup` cannot load, after an edit that has made the run fit the GPU."""
    executor = Local(grid)
    info, folder = job_of(grid)
    (folder / "failure.json").write_text(json.dumps({"message": "no memory", "retry": False}))
    executor.run_job_pre(info.job)
    executor.report_job_error(info, msg="it failed")
    assert executor.errors == ["it failed\n "]
    assert retried(info.job)
    os.utime(folder / "failure.json", (0, 0))  # it is written again
    executor.report_job_error(info, msg="it failed")
    assert "no memory\nNot retried." in str(executor.errors[1])
    assert not retried(info.job)


@pytest.mark.parametrize(
    ("inputs", "again"), [({"code": "study/files.py"}, False), ({"texts": "a.jsonl"}, True)]
)
def test_tables_are_not_made_again_of_the_same_files(
    grid: Grid, inputs: dict[str, str], again: bool
) -> None:
    """A wrong marker in a document, say; a download may succeed at the next attempt."""
    executor = Local(grid)
    info, _ = job_of(grid)
    info.job.output, info.job.input = ["throughput.csv"], InputFiles(fromdict=inputs)
    executor.report_job_error(info, msg="it failed")
    assert retried(info.job) is again


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
