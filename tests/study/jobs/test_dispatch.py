"""What is done before the first job, with another executor than Slurm's; tests/slurm has that."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.grid import Grid
from study.jobs import dispatch
from study.jobs.dispatch import (
    find_impossible_here,
    find_keys_of_request,
    find_misplaced,
    start,
)
from study.jobs.launch import data_request
from study.jobs.requests import TrainingRequest, data_cell
from tests.study.conftest import MakeGrid


def to_train(grid: Grid) -> Any:
    """Return a workflow that is about to train the first cell, with an executor of neither kind."""
    cell = grid[0]
    wildcards = SimpleNamespace(**{key: str(value) for key, value in cell.labels.items()})
    job = SimpleNamespace(
        output=[f"{cell.folder}/completed"],
        wildcards=wildcards,
        params=SimpleNamespace(
            settings=TrainingRequest(grid).settings(wildcards),
            config=f"{cell.folder}/settings.yaml",
        ),
        is_group=lambda: False,
    )
    limits: dict[str, Any] = {"_cores": None}
    return SimpleNamespace(
        scheduler=SimpleNamespace(_executor=object(), global_resources=limits, resources=limits),
        dag=SimpleNamespace(needrun_jobs=lambda: [job]),
        resource_settings=SimpleNamespace(cores=2),
        remote_execution_settings=SimpleNamespace(immediate_submit=False),
        executor_settings=None,
        executor_plugin=SimpleNamespace(name="touch"),
    )


def test_an_executor_that_is_not_extended_is_prepared_too(make_grid: MakeGrid) -> None:
    """For example that of `--touch`."""
    grid = make_grid()
    workflow = to_train(grid)
    start(workflow, grid)
    assert workflow.scheduler.resources["_cores"] == 2
    assert Path(grid[0].folder, "settings.yaml").read_text() == grid[0].run.to_yaml()


def test_a_broken_table_ends_snakemake_with_a_message(make_grid: MakeGrid) -> None:
    """Estimates are made of it before the first job; Snakemake showed a traceback."""
    grid = make_grid()
    table = Path(grid.study.folder, "throughput.csv")
    table.parent.mkdir(parents=True)
    table.write_text("cluster,model\n")
    with pytest.raises(SystemExit, match=f"{table}: 1 problem\n  not a throughput table"):
        start(to_train(grid), grid)


def test_a_missing_start_of_a_run_ends_snakemake_before_the_first_job(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid({"run": {"checkpoint": {"continue_from": "/missing/run"}}})
    told = "1 problem\n  here/tiny/gpus-1/base/seed-42 cannot start: checkpoint.continue_from: "
    with pytest.raises(SystemExit, match=f"{told}/missing/run does not exist"):
        start(to_train(grid), grid)


@pytest.mark.parametrize("clusters", [["fast"], ["fast", "here"]])
def test_runs_that_are_all_for_slurm_are_told_before_the_first_job(
    monkeypatch: pytest.MonkeyPatch, make_grid: MakeGrid, clusters: list[str]
) -> None:
    """They failed one by one, after their text had been downloaded and tokenised."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    grid = make_grid({"grid": [{"cluster": clusters, "model": "tiny", "gpus": 1}]})
    told = ["every run to be trained belongs to a Slurm partition (fast); add --executor slurm"]
    assert find_misplaced(list(grid)) == (told if clusters == ["fast"] else [])
    assert find_misplaced([]) == []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert find_misplaced(list(grid)) == []


def test_a_broken_table_ends_the_plan_of_predicted_requests(make_grid: MakeGrid) -> None:
    """Not by an Exception, of which Snakemake would print a traceback."""
    auto = {"fast": {"slurm": {"runtime_min": "auto", "max_runtime_min": 70}}}
    entry = {"cluster": "fast", "model": "tiny", "gpus": 1}
    grid = make_grid({"clusters": auto, "grid": [entry]})
    table = Path(grid.study.folder, "throughput.csv")
    table.parent.mkdir(parents=True)
    table.write_text("cluster,model\n")
    wildcards = SimpleNamespace(**{key: str(value) for key, value in grid[0].labels.items()})
    with pytest.raises(SystemExit, match=f"{table}: 1 problem\n  not a throughput table"):
        TrainingRequest(grid).resources()["runtime"](wildcards, 1)


def start_on_slurm(folder: Path, *options: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Start the trial study, with Snakemake's records in a folder of the test; with programs of
    `path` before others."""
    study = ["--configfile", "config/studies/slurm-trial.yaml", "--directory", str(folder)]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--executor", "slurm", *study, *options],
        env=os.environ
        | {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


def test_a_folder_of_results_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """/proc is read-only for everybody."""
    done = start_on_slurm(tmp_path, "--config", "results_dir=/proc/x")
    assert done.returncode == 1
    assert "/proc/x/slurm-trial/slurm_logs/ended: cannot be created: " in done.stderr
    assert "Traceback" not in done.stderr


def test_slurm_that_cannot_be_asked_is_told_once(tmp_path: Path) -> None:
    """The trial study has several kinds of requests; each had the same answer."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "sinfo"):
        fatal = f"{name}: fatal: Could not establish a configuration source"
        (programs / name).write_text(f"#!/bin/sh\necho '{fatal}' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    done = start_on_slurm(tmp_path, path=str(programs))
    assert done.returncode == 1
    told = done.stderr.partition("\nrequests to Slurm: ")[2].splitlines()
    answer = "sbatch: fatal: Could not establish a configuration source"
    assert told[:2] == ["1 problem", f"  Slurm cannot be asked from this machine: {answer}"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--immediate-submit", "--notemp"], ["--immediate-submit: jobs would start before"]),
        (["--executor", "slurm-jobstep"], ["--executor slurm-jobstep: cells are trained on"]),
        (
            ["--slurm-array-jobs", "all", "--slurm-exclude-failed-nodes", "n1"],
            ["--slurm-array-jobs: all jobs of an array", "--slurm-exclude-failed-nodes: expected"],
        ),
    ],
)
def test_flags_that_would_have_no_effect_or_a_wrong_one_are_told(
    tmp_path: Path, flags: list[str], told: list[str]
) -> None:
    done = start_on_slurm(tmp_path, *flags)
    assert done.returncode == 1
    lines = done.stderr.partition("\ncommand line or profile: ")[2].splitlines()[1:]
    for line, words in zip(lines, told, strict=False):
        assert line.strip().startswith(words)
    assert len(lines) >= len(told)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("completed"))


@pytest.mark.parametrize("asks", ["its own request", "another"])
def test_a_refused_job_without_a_gpu_is_told_with_its_keys(make_grid: MakeGrid, asks: str) -> None:
    slurm = {"partition": "p", "gpu_request": "gres", "data": {"mem_gib": 8}}
    cluster = {"gpu_name": "H200", "gpus_per_node": 8, "slurm": slurm}
    grid = make_grid({"clusters": {"here": cluster}})
    cell = data_cell(grid)
    assert cell is not None
    asked = data_request(cell.cluster_config)
    job: Any = SimpleNamespace(resources=asked if asks == "its own request" else {"runtime": 30})
    told = find_keys_of_request(grid, job)
    if asks == "another":
        assert told == ""
    else:
        where = f"`slurm.data` of cluster '{cell.cluster}'"
        assert told == f". Its request is {where}, with runtime_min: 240, mem_gib: 8"


@pytest.mark.parametrize("found", [1, 2])
def test_a_run_on_this_machine_needs_its_gpus(
    monkeypatch: pytest.MonkeyPatch, make_grid: MakeGrid, found: int
) -> None:
    monkeypatch.setattr(dispatch, "count_gpus", lambda: found)
    grid = make_grid({"clusters": {"here": {"device": "cuda", "gpu_name": "H200"}}})
    executor: Any = SimpleNamespace(cell=lambda job: job.cell)
    jobs = [SimpleNamespace(cell=cell, is_local=True) for cell in grid if cell.gpus == 2]
    problems = find_impossible_here(executor, jobs)
    if found == 2:
        assert problems == []
    else:
        assert problems[0].endswith("needs 2 GPUs, found 1")
