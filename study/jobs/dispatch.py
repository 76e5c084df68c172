"""What Snakemake's executor is told beyond its settings, when the first jobs are about to start.

`start` asks Slurm whether it would accept the requests, before a queue of failures builds up, and
gives the executor knowledge of this workflow that no setting of its carries:

- which failures another attempt cannot mend (cancelled by a person, out of GPU memory), and which
  are not the job's (no controller to submit to);
- which jobs of an earlier invocation, whose Snakemake has ended, are still at work on a cell: the
  new job waits in Slurm's queue for the old one, and goes on from what that leaves;
- that jobs whose state could not be asked for are still there;
- a name for the jobs that a person knows again, and a link to each job's log in its run's folder.

On this machine it holds jobs to the cores that were given: see `_hold_to_cores`.

It replaces methods of the one executor object, not of its class. Written for Snakemake 9.27 and
snakemake-executor-plugin-slurm 2.8; tests/slurm shows each behaviour on real daemons.
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
"""How long a command of Slurm's may take."""

HAS_TO_WAIT = re.compile(r"busy|not available now|not available \(", re.IGNORECASE)
"""What sbatch says of a sound request for nodes that are taken; slurm_errno.c."""

NO_SUCH_NODE = "Requested node configuration is not available"
"""What sbatch says of nodes that do not exist, and in a test also of nodes that are down."""

NO_CONTROLLER = "Unable to contact slurm controller"
"""What sbatch says while slurmctld is away."""

CANCELLED = "SLURM status is: 'CANCELLED'"
"""What the plugin says of a job that scancel ended."""


def start(workflow: Any, grid: Grid) -> None:
    """Check the requests of the jobs to come, and attach to the executor; for `onstart:`.

    A request that Slurm would refuse ends the program with a message and exit code 1.
    """
    executor = workflow.scheduler._executor
    on_slurm = hasattr(executor, "slurm_logdir")
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name == TRAINING_RULE]
    names = {grid.at(job.wildcards).name for job in jobs}
    waiting = [cell for cell in grid if cell.name in names]
    if waiting:
        # Only here, as it brings numpy: every job on Slurm reads the Snakefile too.
        from study.estimate.backtest import record_predictions
        from study.estimate.budget import check_budget
        from study.estimate.forecast import Forecast

        forecast = Forecast(grid)
        problems = find_refusals(waiting, forecast.needs) if on_slurm else []
        if problems:
            sys.exit(str(ConfigError("requests to Slurm", problems)))
        problem = check_budget(grid.study, waiting, forecast)
        if problem:
            sys.exit(problem)
        record_predictions(waiting, forecast)
    _write_settings(workflow.dag.needrun_jobs())
    if workflow.local_exec:
        _hold_to_cores(workflow)
    Attachment(executor, grid, on_slurm)


def _write_settings(jobs: Iterable[Any]) -> None:
    """Write the run.yaml that each job's command reads, from the job's own parameters."""
    for job in jobs:
        if hasattr(job.params, "settings"):
            path = Path(job.params.config)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, job.params.settings)


def _hold_to_cores(workflow: Any) -> None:
    """Give the scheduler of local jobs its limit of `--cores` again.

    Snakemake drops it where a profile sets `jobs`, as ours does for Slurm: runs would be measured
    beside each other.
    """
    scheduler = workflow.scheduler
    for resources in (scheduler.global_resources, scheduler.resources):
        resources["_cores"] = workflow.resource_settings.cores


def find_refusals(
    cells: Iterable[Cell], needs: Callable[[Cell], Needs] = lambda cell: NOT_KNOWN
) -> list[str]:
    """Return what Slurm has against the cells' requests, one line for each that it would refuse.

    `sbatch --test-only` checks account, partition, limits and nodes, and submits nothing.
    """
    problems: dict[str, str] = {}
    for cell in cells:
        request = request_line(cell.cluster_config, cell.gpus, needs(cell))
        if request in problems:
            continue
        if not request:
            problem = "has no `slurm:` settings; its runs are started without --executor slurm"
        else:
            problem = _refused_by_sbatch(request, cell.cluster_config.slurm.partition)  # type: ignore[union-attr]
        problems[request] = problem and f"cluster '{cell.cluster}' {problem}"
    return [problem for problem in problems.values() if problem]


def _refused_by_sbatch(request: str, partition: str) -> str:
    """Return why sbatch would not take a request; empty where it would."""
    answer = _ask_slurm(["sbatch", "--test-only", *request.split(), "--wrap=true"])
    if answer.returncode == 0 or HAS_TO_WAIT.search(answer.stderr):
        return ""
    if NO_SUCH_NODE in answer.stderr and _has_nodes_down(partition):
        return ""
    said = "; ".join(line.removeprefix("sbatch: error: ") for line in answer.stderr.splitlines())
    return f"asks `sbatch {request}`, and Slurm answers: {said}"


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
    """Methods of an executor, replaced by ones that know the study, around those that it had."""

    def __init__(self, executor: Any, grid: Grid, on_slurm: bool) -> None:
        self._grid = grid
        self._ended: set[int] = set()
        self._report_error = executor.report_job_error
        executor.report_job_error = self.report_job_error
        if on_slurm:
            self._attach_to_slurm(executor)

    def _attach_to_slurm(self, executor: Any) -> None:
        # squeue shows the name's first letters; jobs are found again by its first part.
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
        """Report a failed job; see to it that it is tried again just where that can help."""
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
                "It was cancelled and is not tried again. Start Snakemake again to go on from "
                "the newest checkpoint."
            )
        elif (folder := self._folder(job)) and (failure := read_failure(folder)):
            verdict = failure.message
            if not failure.retry:
                job.attempt = job.restart_times + 1
                verdict += " Not tried again."
        # The executor adds a sentence of its own right behind.
        message = "\n".join(filter(None, [said, verdict, " "]))
        self._report_error(job_info, message if said or verdict else None, **kwargs)

    def report_job_success(self, job_info: Any) -> None:
        """Report a job that has done its work."""
        self._ended.add(id(job_info))
        self._report_success(job_info)

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield the jobs that are still at work.

        The plugin forgets all of them when Slurm did not answer its question.
        """
        at_work = set()
        async for job_info in self._check(active_jobs):
            at_work.add(id(job_info))
            yield job_info
        for job_info in active_jobs:
            if id(job_info) not in at_work and id(job_info) not in self._ended:
                yield job_info
        self._ended.clear()

    def run_job(self, job: Any) -> None:
        """Submit a job, after those of an earlier invocation that are at work on the same."""
        ids = self._find_earlier_jobs().get(_comment(job)) if self._earlier else None
        if ids:
            flags = job.resources.get("slurm_extra") or ""
            job.resources.slurm_extra = f"{flags} --dependency=afterany:{':'.join(ids)}".strip()
            print(
                f"Slurm job {', '.join(ids)} of an earlier invocation is at work on "
                f"{_comment(job)}; the new job waits for it.",
                file=sys.stderr,
            )
        self._run(job)

    def _find_earlier_jobs(self) -> dict[str, list[str]]:
        """Return comment -> ids of this study's queued and running jobs of earlier invocations."""
        answer = _ask_slurm(["squeue", "--me", "--noheader", "--format=%A|%j|%Z|%k"])
        earlier: dict[str, list[str]] = {}
        for line in answer.stdout.splitlines():
            job_id, name, folder, comment = line.split("|", maxsplit=3)
            ours = name.startswith(f"{self._grid.study.study}_") and folder == str(Path.cwd())
            if ours and name != self._name:
                earlier.setdefault(comment, []).append(job_id)
        return earlier

    def report_job_submission(self, job_info: Any, *args: Any, **kwargs: Any) -> None:
        """Link the job's log in its run's folder, by the job id."""
        folder = self._folder(job_info.job)
        if folder is not None and job_info.external_jobid is not None:
            link = folder / "slurm_logs" / f"{job_info.external_jobid}.log"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            # The folder itself may be reached by a link, as of results that lie on scratch.
            log = Path(job_info.aux["slurm_logfile"])
            target = os.path.relpath(log.parent.resolve() / log.name, link.parent.resolve())
            link.symlink_to(target)
        self._report_submission(job_info, *args, **kwargs)


def _account_flag(job: Any) -> Iterator[str]:
    """Yield the account's flag of sbatch, which checks it.

    The plugin asks the accounting daemon before each submission, and fails where there is none.
    """
    account = job.resources.get("slurm_account")
    yield f" -A {shlex.quote(str(account))}" if account else ""


def _comment(job: Any) -> str:
    """Return the comment that the plugin gives a job: its rule and wildcards."""
    from snakemake_executor_plugin_slurm.utils import get_job_wildcards

    wildcards = get_job_wildcards(job)
    return f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
