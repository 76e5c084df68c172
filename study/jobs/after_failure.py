"""After a failed run: the tables, plots and report of the runs that exist.

Snakemake makes none, as they wait for all runs. So a second Snakemake makes them, of the partial
study, when the first has done what it could.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from study.files import write_file
from study.grid import Grid
from study.jobs.decisions import is_training
from study.jobs.interruption import is_stopped
from study.jobs.messages import say
from study.project import SNAKEFILE

TARGETS = ("throughput.csv", "time_estimates.csv", "report.html")
"""Files of a study that are made if they were asked for."""


def make_tables(workflow: Any, grid: Grid) -> None:
    """Make what was asked for of `TARGETS` from the runs that exist; for `onerror:`.

    Nothing is made if no run has failed, or if the user ended Snakemake.
    """
    if is_stopped(workflow.scheduler):
        say("Stopped by Ctrl-C. Run the same command again to continue.")
        return
    if grid.study.partial or _was_ended(workflow.scheduler):
        return
    dag = workflow.dag
    unfinished = [job for job in dag.needrun_jobs() if not dag.finished(job)]
    missing = {str(path) for job in unfinished for path in job.output}
    files = [f"{grid.study.folder}/{name}" for name in TARGETS]
    targets = [file for file in files if file in missing]
    if not targets or not any(map(is_training, unfinished)):
        return
    say("A run has failed. The tables of the others are made now.")
    try:
        command = partial_command(grid, targets)
    except OSError as error:  # a full disk, for example, of which the run may have failed, too
        say(f"They could not be made: {error.filename}: {error.strerror}")
        return
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        say(f"They could not be made:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return
    for file in targets:
        say(file.replace(".csv", ".md"))


def _was_ended(scheduler: Any) -> bool:
    """Return whether a signal, or Slurm's executor on one, has ended Snakemake."""
    return scheduler is None or bool(scheduler._user_kill or scheduler._executor_error)


def partial_command(grid: Grid, targets: list[str]) -> list[str]:
    """Return the command that makes files of the same study as it is, and write the study."""
    file = Path(grid.study.folder, "study.yaml")
    if not file.exists():
        write_file(file, grid.study.to_yaml())
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--executor", "local"]
    command += ["--snakefile", str(SNAKEFILE), "--configfile", str(file)]
    return [*command, "--config", "partial=true", "--", *targets]
