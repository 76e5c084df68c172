"""Checks before the first jobs start, and behaviour that Snakemake's executor has no settings for.

`start` checks that Slurm would accept the requests, before a queue of failures builds up, and
changes the executor so that

- failures that a retry cannot fix (cancelled by a person, out of GPU memory) are not retried, and
  failures that are not the job's (no controller to submit to) use up no retry;
- if a job of an earlier invocation, whose Snakemake has ended, still works on a cell, the new job
  waits for it in Slurm's queue and resumes from its checkpoint;
- jobs are still considered active if Slurm does not answer a status query;
- job names start with the study's name, and each run's folder has links to its jobs' logs.

On this machine it restores the limit of `--cores`: see `_limit_to_cores`.

It replaces methods of the executor object, not of its class. Written for Snakemake 9.27 and
snakemake-executor-plugin-slurm 2.8; tests/slurm tests each behaviour on real daemons.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from study.estimate.needs import NOT_KNOWN, Needs
from study.grid import Cell, Grid
from study.jobs.launch import request_line
from study.measure.logs import read_failure
from trainer.config import ConfigError
from trainer.files import write_atomically

TRAINING_RULE = "train"

SLURM_TIMEOUT_S = 60
"""Time limit of a Slurm command."""

HAS_TO_WAIT = re.compile(r"busy|not available now|not available \(", re.IGNORECASE)
"""In sbatch's message about a valid request for nodes that are in use; from slurm_errno.c."""

NO_SUCH_NODE = "Requested node configuration is not available"
"""In sbatch's message about nodes that do not exist; with --test-only, also about nodes that are
down."""

NO_CONTROLLER = "Unable to contact slurm controller"
"""In sbatch's message if slurmctld does not answer."""

CANCELLED = "SLURM status is: 'CANCELLED'"
"""In the plugin's message about a job that was ended by scancel."""


def start(workflow: Any, grid: Grid) -> None:
    """Check the requests of the training jobs, and attach to the executor; for `onstart:`.

    A request that Slurm would reject ends the program with a message and exit code 1.
    """
    executor = workflow.scheduler._executor
    on_slurm = hasattr(executor, "slurm_logdir")
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name == TRAINING_RULE]
    names = {grid.at(job.wildcards).name for job in jobs}
    waiting = [cell for cell in grid if cell.name in names]
    if waiting:
        # Imported only here, as it loads numpy: every job on Slurm reads the Snakefile too.
        from study.estimate.backtest import record_predictions
        from study.estimate.budget import check_budget
        from study.estimate.forecast import Forecast

        forecast = Forecast(grid)
        problems = find_rejected(waiting, forecast.needs) if on_slurm else []
        if problems:
            sys.exit(str(ConfigError("requests to Slurm", problems)))
        problem = check_budget(grid.study, waiting, forecast)
        if problem:
            sys.exit(problem)
        record_predictions(waiting, forecast)
    _write_settings(workflow.dag.needrun_jobs())
    if workflow.local_exec:
        _limit_to_cores(workflow)
    Attachment(executor, grid, on_slurm)


def _write_settings(jobs: Iterable[Any]) -> None:
    """Write the run.yaml that each job's command reads, from the job's own parameters."""
    for job in jobs:
        if hasattr(job.params, "settings"):
            path = Path(job.params.config)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, job.params.settings)


def _limit_to_cores(workflow: Any) -> None:
    """Restore the limit of `--cores` in the scheduler of local jobs.

    Snakemake drops it if a profile sets `jobs`, as ours does for Slurm: then measured runs would
    run concurrently.
    """
    scheduler = workflow.scheduler
    for resources in (scheduler.global_resources, scheduler.resources):
        resources["_cores"] = workflow.resource_settings.cores


def find_rejected(
    cells: Iterable[Cell], needs: Callable[[Cell], Needs] = lambda cell: NOT_KNOWN
) -> list[str]:
    """Return one line for each of the cells' requests that Slurm would reject, with its reason.

    `sbatch --test-only` checks account, partition, limits and nodes, and submits nothing.
    """
    problems: dict[str, str] = {}
    for cell in cells:
        request = request_line(cell.cluster_config, cell.gpus, needs(cell))
        if request in problems:
            continue
        if not request:
            problem = "has no `slurm:` settings; start its runs without --executor slurm"
        else:
            problem = _rejected_by_sbatch(request, cell.cluster_config.slurm.partition)  # type: ignore[union-attr]
        problems[request] = problem and f"cluster '{cell.cluster}' {problem}"
    return [problem for problem in problems.values() if problem]


def _rejected_by_sbatch(request: str, partition: str) -> str:
    """Return why sbatch would reject a request; empty if it would accept it."""
    answer = _ask_slurm(["sbatch", "--test-only", *request.split(), "--wrap=true"])
    if answer.returncode == 0 or HAS_TO_WAIT.search(answer.stderr):
        return ""
    if NO_SUCH_NODE in answer.stderr and _has_nodes_down(partition):
        return ""
    said = "; ".join(line.removeprefix("sbatch: error: ") for line in answer.stderr.splitlines())
    return f"requests `sbatch {request}`; Slurm answers: {said}"


def _has_nodes_down(partition: str) -> bool:
    states = "--states=down,drain,fail,maint,reboot"
    answer = _ask_slurm(["sinfo", "--noheader", f"--partition={partition}", states, "--format=%D"])
    return bool(answer.stdout.strip())


def _ask_slurm(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=SLURM_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        message = f"no answer within {SLURM_TIMEOUT_S} s"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=message)


class Attachment:
    """Replaces methods of an executor by ones that know the study and call the original ones."""

    def __init__(self, executor: Any, grid: Grid, on_slurm: bool) -> None:
        self._grid = grid
        self._ended: set[int] = set()
        self._report_error = executor.report_job_error
        executor.report_job_error = self.report_job_error
        if on_slurm:
            self._attach_to_slurm(executor)

    def _attach_to_slurm(self, executor: Any) -> None:
        # squeue shows the start of the name; later invocations find the jobs by it.
        executor.run_uuid = f"{self._grid.study.study}_{executor.run_uuid}"
        self._name = executor.run_uuid
        self._earlier = self._find_earlier_jobs()
        self._run = executor.run_job
        self._report_submission = executor.report_job_submission
        self._report_success = executor.report_job_success
        self._check = executor.check_active_jobs
        executor.run_job = self.run_job
        executor.get_account_arg = _account_flag
        executor.report_job_submission = self.report_job_submission
        executor.report_job_success = self.report_job_success
        executor.check_active_jobs = self.check_active_jobs

    def _folder(self, job: Any) -> Path | None:
        """Return the run's folder of a training job; None for other jobs."""
        if job.is_group() or job.rule.name != TRAINING_RULE:
            return None
        return Path(self._grid.at(job.wildcards).folder)

    def report_job_error(self, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        """Report a failed job, and have it retried only if that can help."""
        job, said = job_info.job, msg or ""
        verdict = ""
        if job_info.external_jobid is not None:
            self._ended.add(id(job_info))
        if NO_CONTROLLER in said:
            job.attempt -= 1  # Snakemake will count this one
            verdict = "Slurm's controller does not answer. The job is submitted again."
        elif CANCELLED in said:
            job.attempt = job.restart_times + 1
            verdict = (
                "It was cancelled and is not retried. Start Snakemake again to resume from the "
                "newest checkpoint."
            )
        elif (folder := self._folder(job)) and (failure := read_failure(folder)):
            verdict = failure.message
            if not failure.retry:
                job.attempt = job.restart_times + 1
                verdict += " Not retried."
        # The executor appends a sentence of its own.
        message = "\n".join(filter(None, [said, verdict, " "]))
        self._report_error(job_info, message if said or verdict else None, **kwargs)

    def report_job_success(self, job_info: Any) -> None:
        """Report a job that has finished."""
        self._ended.add(id(job_info))
        self._report_success(job_info)

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that are still active.

        The plugin forgets all of them if Slurm does not answer its query.
        """
        active = set()
        async for job_info in self._check(active_jobs):
            active.add(id(job_info))
            yield job_info
        for job_info in active_jobs:
            if id(job_info) not in active and id(job_info) not in self._ended:
                yield job_info
        self._ended.clear()

    def run_job(self, job: Any) -> None:
        """Submit a job, to start after those of an earlier invocation for the same cell."""
        ids = self._find_earlier_jobs().get(_comment(job)) if self._earlier else None
        if ids:
            flags = job.resources.get("slurm_extra") or ""
            job.resources.slurm_extra = f"{flags} --dependency=afterany:{':'.join(ids)}".strip()
            print(
                f"Slurm job {', '.join(ids)} of an earlier invocation still runs "
                f"{_comment(job)}; the new job waits for it.",
                file=sys.stderr,
            )
        self._run(job)

    def _find_earlier_jobs(self) -> dict[str, list[str]]:
        """Return comment -> ids of this study's active jobs from earlier invocations."""
        answer = _ask_slurm(["squeue", "--me", "--noheader", "--format=%A|%j|%Z|%k"])
        earlier: dict[str, list[str]] = {}
        for line in answer.stdout.splitlines():
            job_id, name, folder, comment = line.split("|", maxsplit=3)
            ours = name.startswith(f"{self._grid.study.study}_") and folder == str(Path.cwd())
            if ours and name != self._name:
                earlier.setdefault(comment, []).append(job_id)
        return earlier

    def report_job_submission(self, job_info: Any, *args: Any, **kwargs: Any) -> None:
        """Link the job's log in its run's folder, named by the job id."""
        folder = self._folder(job_info.job)
        if folder is not None and job_info.external_jobid is not None:
            link = folder / "slurm_logs" / f"{job_info.external_jobid}.log"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            # The folder may be behind a link, for example to results on scratch.
            log = Path(job_info.aux["slurm_logfile"])
            target = os.path.relpath(log.parent.resolve() / log.name, link.parent.resolve())
            link.symlink_to(target)
        self._report_submission(job_info, *args, **kwargs)


def _account_flag(job: Any) -> Iterator[str]:
    """Yield sbatch's flag for the account; sbatch checks the account itself.

    The plugin asks the accounting daemon before each submission, and fails if there is none.
    """
    account = job.resources.get("slurm_account")
    yield f" -A {shlex.quote(str(account))}" if account else ""


def _comment(job: Any) -> str:
    """Return the plugin's comment for a job: its rule and wildcards."""
    from snakemake_executor_plugin_slurm.utils import get_job_wildcards

    wildcards = get_job_wildcards(job)
    return f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
