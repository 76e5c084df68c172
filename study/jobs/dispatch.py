"""Before the first job: checks of all requests, and limits that Snakemake cannot set."""

import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from study.grid import Cell, Grid
from study.jobs.decisions import find_cell
from study.jobs.executors import LocalExecutor
from study.jobs.flags import find_not_followed
from study.jobs.foreign_job import write_job
from study.jobs.interruption import exit_on_sigterm, leave_on_sigterm, note_ctrl_c
from study.jobs.launch import ADD_SLURM, data_request
from study.jobs.local_gpus import count_gpus
from study.jobs.missing_starts import find_missing_starts
from study.jobs.requests import data_cell
from study.jobs.sbatch_answers import find_refusal, is_out_of_reach
from study.jobs.slurm_executor import SlurmExecutor
from study.jobs.slurm_request import Prepared
from study.jobs.writable import find_unwritable
from trainer.config import RunConfig
from trainer.files import write_atomically
from trainer.problems import ConfigError


def start(workflow: Any, grid: Grid) -> None:
    """Check what is about to run, and prepare the executor; for `onstart:`.

    What cannot run as requested ends the program with a message and exit code 1.
    """
    executor = workflow.scheduler._executor
    note_ctrl_c(workflow.scheduler)
    try:
        _refuse("command line or profile", find_not_followed(workflow))
        if isinstance(executor, SlurmExecutor):
            exit_on_sigterm()
        jobs = list(workflow.dag.needrun_jobs())
        cells = _cells_to_train(grid, jobs)
        if isinstance(executor, LocalExecutor):
            _refuse("command line or profile", find_misplaced(cells))
        _refuse("settings of the runs", find_missing_starts(grid, cells))
        if isinstance(executor, SlurmExecutor):
            problems = [*find_impossible_here(executor, jobs), *find_rejected(executor, jobs)]
            _refuse("requests to Slurm", problems)
        if unwritable := find_unwritable(grid, cells):
            sys.exit(unwritable)
        _write_down(executor, grid, cells, jobs)
        if isinstance(executor, SlurmExecutor):
            executor.find_earlier_jobs(jobs)
            executor.learn_limits()
            _hand_over_all(workflow)
            leave_on_sigterm(executor.leave)
        else:
            _limit_to_cores(workflow)
    except (ConfigError, WorkflowError) as error:
        sys.exit(str(error))


def _refuse(source: str, problems: Sequence[str]) -> None:
    if problems:
        raise ConfigError(source, problems)


def _write_down(executor: Any, grid: Grid, cells: Sequence[Cell], jobs: Iterable[Any]) -> None:
    """Write what is predicted of the cells to train, and what the jobs read."""
    try:
        if cells:
            _predict(executor, grid, cells)
        _write_settings(grid, jobs)
    except OSError as error:
        sys.exit(f"{error.filename}: cannot be written: {error.strerror}")


def _predict(executor: Any, grid: Grid, cells: Sequence[Cell]) -> None:
    """Write down how long the cells are expected to take, and tell the executor.

    Cells beyond the study's budget end the program. Raises ConfigError if a table is malformed.
    """
    # Imported only here, as it loads numpy.
    from study.estimate.backtest import record_predictions
    from study.estimate.budget import check_budget
    from study.estimate.forecast import Forecast

    forecast = Forecast(grid)
    problem = check_budget(grid.study, cells, forecast)
    if problem:
        sys.exit(problem)
    record_predictions(cells, forecast)
    seconds = {cell.name: forecast.estimate(cell).seconds for cell in cells}
    if isinstance(executor, SlurmExecutor):
        executor.progress.expect(seconds)
    elif isinstance(executor, LocalExecutor):
        executor.progress.expect(cells, seconds)


def _cells_to_train(grid: Grid, jobs: Iterable[Any]) -> list[Cell]:
    """Return the cells that jobs train, in the grid's order."""
    names = {cell.name for job in jobs if (cell := find_cell(grid, job)) is not None}
    return [cell for cell in grid if cell.name in names]


def _write_settings(grid: Grid, jobs: Iterable[Any]) -> None:
    """Write the run.yaml that each job's command reads, from the job's own parameters.

    For a trainer with its own config, also that and trainer.json, which says how it is run.
    """
    for job in jobs:
        if hasattr(job.params, "settings"):
            path = Path(job.params.config)
            path.parent.mkdir(parents=True, exist_ok=True)
            run = RunConfig.model_validate_json(job.params.settings)
            write_atomically(path, run.to_yaml())
        cell = find_cell(grid, job)
        if cell is not None and not cell.trainer_config.is_native:
            write_job(cell)


def _limit_to_cores(workflow: Any) -> None:
    """Restore the limit of `--cores` in the scheduler of local jobs.

    Snakemake drops it if a profile sets `jobs`, as ours does for Slurm: then measured runs would
    run concurrently.
    """
    _set_limit(workflow, "_cores", workflow.resource_settings.cores)


def _hand_over_all(workflow: Any) -> None:
    """Have the scheduler hand all jobs that are ready to the executor, which bounds the queue.

    Otherwise it would go through all that wait whenever one job ends.
    """
    workflow.scheduler.job_rate_limiter = None
    _set_limit(workflow, "_nodes", sys.maxsize)


def _set_limit(workflow: Any, name: str, limit: int) -> None:
    scheduler = workflow.scheduler
    for resources in (scheduler.global_resources, scheduler.resources):
        resources[name] = limit


def find_misplaced(cells: Sequence[Cell]) -> list[str]:
    """Return what is wrong if all cells that are to be trained on this machine are for Slurm.

    In a mixed study, the others can be trained. In an allocation, all can.
    """
    for_slurm = [cell for cell in cells if cell.cluster_config.slurm is not None]
    if not cells or len(for_slurm) < len(cells) or "SLURM_JOB_ID" in os.environ:
        return []
    clusters = ", ".join(dict.fromkeys(cell.cluster for cell in cells))
    return [f"every run to be trained belongs to a Slurm partition ({clusters}); {ADD_SLURM}"]


def find_impossible_here(executor: SlurmExecutor, jobs: Iterable[Any]) -> list[str]:
    """Return what the cells that are trained on this machine lack."""
    problems = {}
    here = None
    for job in jobs:
        cell = executor.cell(job)
        if cell is None or not job.is_local or cell.cluster_config.device != "cuda":
            continue
        here = count_gpus() if here is None else here
        if cell.gpus > here:
            problems[cell.cluster] = (
                f"cluster '{cell.cluster}' has no `slurm:` settings, so its runs are on this "
                f"machine: {cell.name} needs {cell.gpus} GPUs, found {here}"
            )
    return list(problems.values())


def find_rejected(executor: SlurmExecutor, jobs: Iterable[Any]) -> list[str]:
    """Return one line for each kind of request that Slurm, or its plugin, would reject; a single
    one if Slurm cannot be asked from here.

    `sbatch --test-only` with the arguments of the submission checks account, partition, limits and
    nodes, and submits nothing.
    """
    problems: dict[Any, str] = {}
    for job in jobs:
        if job.is_local:
            continue
        cell = executor.cell(job)
        who = f"cluster '{cell.cluster}'" if cell else f"rule {job.name}"
        asked = {k: v for k, v in job.resources.items() if not k.startswith("_")}
        kind = (who, *sorted((key, str(value)) for key, value in asked.items()))
        if kind in problems:
            continue
        try:
            problem = (
                _why_rejected(executor, job)
                if "slurm_partition" in asked
                else ("has no `slurm:` settings; start its runs without --executor slurm")
            )
        except OutOfReachError as error:
            return [str(error)]
        problems[kind] = problem and f"{who} {problem}"
    return [problem for problem in problems.values() if problem]


class OutOfReachError(Exception):
    """Slurm, or one of its clusters, cannot be asked from here."""


def _why_rejected(executor: SlurmExecutor, job: Any) -> str:
    """Return why a job's request would be rejected; empty if it would be accepted.

    Raises OutOfReachError.
    """
    try:
        prepared = executor.prepare(job)
    except WorkflowError as error:
        return f"cannot be requested: {error}"
    partition = job.resources.get("slurm_partition")
    refusal = find_refusal(prepared.command, prepared.script, partition, prepared.cluster)
    if refusal and is_out_of_reach(prepared.cluster):
        name = f"Slurm's cluster {prepared.cluster}" if prepared.cluster else "Slurm"
        raise OutOfReachError(f"{name} cannot be asked from this machine: {refusal}")
    said = f"requests `{_shorten(prepared)}`; Slurm answers: {refusal}"
    return refusal and said + find_keys_of_request(executor.grid, job)


def find_keys_of_request(grid: Grid, job: Any) -> str:
    """Return where the request of a job without a GPU is stated: of rules, a study says nothing."""
    cell = data_cell(grid)
    slurm = None if cell is None else cell.cluster_config.slurm
    if cell is None or slurm is None:
        return ""
    asked = data_request(cell.cluster_config)
    if any(job.resources.get(name) != value for name, value in asked.items()):
        return ""
    return (
        f". Its request is `slurm.data` of cluster '{cell.cluster}', with runtime_min: "
        f"{slurm.data.runtime_min}, mem_gib: {slurm.data.mem_gib}"
    )


def _shorten(prepared: Prepared) -> str:
    """Return the command without what cannot be wrong."""
    start = prepared.command.index("--comment") + 2
    return shlex.join(["sbatch", *prepared.command[start:]])
