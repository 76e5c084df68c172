"""What a run's own files say about its job: whether the run is complete, and why it failed.

The decisions of both executors, on this machine and on Slurm.
"""

from pathlib import Path
from typing import Any

from study.grid import Cell, Grid
from study.measure.changes import describe_change
from study.measure.summaries import is_stale, is_up_to_date, read_failure
from study.points import COMPLETED
from trainer.folder.run_file import find_summary
from trainer.records import FAILURE

_earlier: dict[str, int | None] = {}
"""Folder of a run -> when the failure.json was written that was there before its job, ns."""


def is_training(job: Any) -> bool:
    """Return whether a job trains a cell of the grid, by what it creates: rules have other names in
    other workflows."""
    return not job.is_group() and any(path.endswith(f"/{COMPLETED}") for path in job.output)


def find_cell(grid: Grid, job: Any) -> Cell | None:
    """Return the cell that a job trains; None for other jobs."""
    if not is_training(job):
        return None
    cell: Cell = grid.at(job.wildcards)
    return cell


def is_derived(job: Any) -> bool:
    """Return whether a job makes a table, figure or page: its input names the study's own code, and
    with the same files it fails again."""
    return not job.is_group() and bool(getattr(job.input, "code", None))


def give_up(job: Any) -> None:
    """Have Snakemake not retry a job."""
    job.attempt = job.restart_times + 1


def _what_is_there(cell: Cell) -> str:
    """Return what is in a cell's folder in place of a complete run with its settings."""
    summary = find_summary(cell.folder)
    if summary is None or not is_stale(cell, summary):
        return "the run is not complete"
    change = describe_change(cell)
    return (
        f"its folder has a run with other settings ({change}), as if another invocation trains an "
        "edited copy of this study"
    )


def _time_of_failure(cell: Cell) -> int | None:
    """Return when a run's failure.json was written, ns; None without one."""
    try:
        return Path(cell.folder, FAILURE).stat().st_mtime_ns
    except OSError:
        return None


class Decisions:
    """Base class of an executor, before the one of Snakemake that it extends."""

    grid: Grid

    def cell(self, job: Any) -> Cell | None:
        """Return the cell that a job trains; None for other jobs."""
        return find_cell(self.grid, job)

    def run_job_pre(self, job: Any) -> None:
        """Announce a job that is about to start."""
        self.note_earlier_failure(job)
        super().run_job_pre(job)  # type: ignore[misc]

    def note_earlier_failure(self, job: Any) -> None:
        """Note a failure that is not the job's: it may end before its trainer, which removes it."""
        if (cell := self.cell(job)) is not None:
            _earlier[cell.folder] = _time_of_failure(cell)

    def report_job_success(self, job_info: Any) -> None:
        """Report a job that has ended with code 0; a run that is not complete is an error."""
        cell = self.cell(job_info.job)
        if cell is not None and not is_up_to_date(cell):
            message = f"{cell.name}: the job exited with code 0, but {_what_is_there(cell)}."
            self.report_job_error(job_info, msg=message)
            return
        super().report_job_success(job_info)  # type: ignore[misc]

    def report_job_error(self, job_info: Any, msg: str | None = None, **kwargs: Any) -> None:
        """Report a failed job, and have it retried only if that can help."""
        cell = self.cell(job_info.job)
        verdict = ""
        if cell is None and is_derived(job_info.job):
            give_up(job_info.job)
        failure = None if cell is None else read_failure(cell.folder)
        if cell and failure and _time_of_failure(cell) != _earlier.get(cell.folder):
            verdict = failure.message
            if not failure.retry:
                give_up(job_info.job)
                verdict += "\nNot retried."
        # The executor appends a sentence of its own.
        message = "\n".join(filter(None, [msg, verdict, " "]))
        known = msg or verdict
        super().report_job_error(job_info, message if known else None, **kwargs)  # type: ignore[misc]
