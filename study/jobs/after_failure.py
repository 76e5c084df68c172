"""After a failed run: the tables, plots and report of the runs that exist.

Snakemake makes none, as they wait for all runs. So a second Snakemake makes them, of the partial
study, when the first has done what it could.
"""

import subprocess
import sys
from typing import Any

from study.grid import Grid
from study.jobs.decisions import TRAINING_RULES
from study.jobs.messages import say

TARGETS = ("throughput", "time_estimates", "report")
"""Rules whose tables and pages are made if they were asked for."""


def make_tables(workflow: Any, grid: Grid) -> None:
    """Make what was asked for of `TARGETS` from the runs that exist; for `onerror:`.

    Nothing is made if no run has failed, or if the user ended Snakemake.
    """
    if grid.study.partial or _was_ended(workflow.scheduler):
        return
    dag = workflow.dag
    unfinished = {job.rule.name for job in dag.needrun_jobs() if not dag.finished(job)}
    targets = [name for name in TARGETS if name in unfinished]
    if not targets or unfinished.isdisjoint(TRAINING_RULES):
        return
    say("A run has failed. The tables of the others are made now.")
    done = subprocess.run(
        partial_command(workflow, targets), capture_output=True, text=True, check=False
    )
    if done.returncode:
        say(f"They could not be made:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return
    for name in ("throughput.md", "time_estimates.md", "report.html"):
        if name.partition(".")[0] in targets:
            say(f"{grid.study.folder}/{name}")


def _was_ended(scheduler: Any) -> bool:
    """Return whether a signal, or Slurm's executor on one, has ended Snakemake."""
    return scheduler is None or bool(scheduler._user_kill or scheduler._executor_error)


def partial_command(workflow: Any, targets: list[str]) -> list[str]:
    """Return the command that makes targets of the same study as it is."""
    files = [str(path) for path in workflow.configfiles]
    given = [*workflow.config_settings.config_args, "partial=true"]
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--executor", "local"]
    command += ["--snakefile", str(workflow.main_snakefile), "--config", *given]
    return [*command, *(["--configfile", *files] if files else []), "--", *targets]
