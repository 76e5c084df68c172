"""Snakemake's executors, extended and registered in place of the originals."""

import sys
from importlib.metadata import version
from typing import Any

from snakemake.executors.local import Executor as SnakemakeLocalExecutor
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from study.grid import Grid
from study.jobs.decisions import Decisions
from study.jobs.interruption import is_stopped
from study.jobs.local_progress import LocalProgress
from study.jobs.messages import say
from study.jobs.slurm_executor import SlurmExecutor
from study.measure.summaries import is_up_to_date

TESTED = {"snakemake": "9.27", "snakemake-executor-plugin-slurm": "2.8"}
"""The versions that these classes extend, as pyproject.toml has them."""


def check_versions() -> None:
    """End the program if a package that is extended here has another version than tested."""
    for package, tested in TESTED.items():
        found = version(package)
        if not found.startswith(f"{tested}."):
            sys.exit(
                f"{package} {found}: study/jobs/executors.py extends its executor and was tested "
                f"with {tested} only. Run `pip install '{package}=={tested}.*'`, or run "
                "tests/slurm with it, then change TESTED and pyproject.toml."
            )


def install(grid: Grid) -> None:
    """Register the executors of a study."""
    check_versions()
    registry = ExecutorPluginRegistry()
    for name, executor in (("local", LocalExecutor), ("slurm", SlurmExecutor)):
        executor.grid = grid
        registry.get_plugin(name).executor = executor
    LocalExecutor.progress = LocalProgress()


class LocalExecutor(Decisions, SnakemakeLocalExecutor):
    """Runs jobs on this machine."""

    progress: LocalProgress

    def _callback(self, job_info: Any, future: Any) -> None:
        """Report the end of a job; not the failure of one that Ctrl-C has ended."""
        if is_stopped(self.workflow.scheduler) and future.exception() is not None:
            self.workflow.scheduler.error_callback(job_info.job)
        else:
            super()._callback(job_info, future)

    def report_job_success(self, job_info: Any) -> None:
        """Report a job that has ended with code 0, and after a training what is left."""
        super().report_job_success(job_info)
        cell = self.cell(job_info.job)
        if cell is not None and is_up_to_date(cell):
            say(self.progress.finished(cell))
