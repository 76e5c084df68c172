"""What Snakemake makes although it may exist: runs, and a study.yaml, with other settings; lists of
shards made of other text files.

Whether a run is up to date follows from its run.json, also in a new clone with old results: neither
from `completed`, which Snakemake looks at, nor from what Snakemake remembers of its last job.
Planning removes and rewrites nothing: another invocation, from this folder or another, may be
training in the same results.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from study.grid import Cell, Grid
from study.jobs.text_changes import TextChanges
from study.measure.changes import MOST_EXPLAINED, UNKNOWN, describe_change
from study.measure.summaries import is_stale, is_up_to_date
from trainer.folder.run_file import find_summary
from trainer.records import SUMMARY


class Change:
    """What Snakemake prints as the reason of a job; looked up only then."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def __str__(self) -> str:
        return describe_change(self._cell)


Outdated = Mapping[str, Change | str | None]
"""File -> what has changed since it was made; None if it is missing."""


def mark_outdated(workflow: Any, grid: Grid) -> None:
    """Tell Snakemake what is up to date and what is not, before it looks for files itself."""
    done = [cell for cell in grid.measured if is_up_to_date(cell)]
    for cell in done:
        _create_completed(cell)
    names = {cell.name for cell in done}
    others = [cell for cell in grid.measured if cell.name not in names]
    lists = dict.fromkeys(TextChanges(grid).outdated, "the text files have changed")
    _make_again(workflow, {**_changed_runs(others), **_changed_study(grid), **lists})


def _create_completed(cell: Cell) -> None:
    """Create the `completed` of a run that is up to date, if it is missing, as after a kill.

    Without it, as in another user's results, Snakemake counts the run as one to train.
    """
    file = Path(cell.completed_file)
    if not file.exists():
        try:
            file.touch()
        except OSError as error:
            reason = f"cannot be created: {error.strerror}; the run is complete, yet counts as one"
            print(f"warning: {file}: {reason} to train", file=sys.stderr)
            return
        written = file.with_name(SUMMARY).stat().st_mtime
        os.utime(file, (written, written))  # keep tables that are newer than the run


def _changed_runs(cells: Sequence[Cell]) -> Outdated:
    """Return the `completed` of runs that are not up to date."""
    found: dict[str, Change | str | None] = {}
    for cell in cells:
        summary = find_summary(cell.folder)
        if summary is None or not is_stale(cell, summary):
            change: Change | str | None = None
        else:
            change = Change(cell) if len(found) < MOST_EXPLAINED else UNKNOWN
        found[cell.completed_file] = change
    return found


def _changed_study(grid: Grid) -> Outdated:
    """Return the study.yaml that the tables are made from, if the study was edited since."""
    file = Path(grid.study.folder, "study.yaml")
    try:
        if grid.study.is_in(file):
            return {}
    except OSError:  # it is missing, or another user's, as Snakemake finds out itself
        return {}
    return {str(file): "the study was edited"}


def _make_again(workflow: Any, outdated: Outdated) -> None:
    """Have Snakemake make these files if a target needs them, whether they exist or not.

    Its own --forcerun would make them targets. By default it does not even make a file that is
    missing if what is made of it exists: tables of a run whose folder was deleted.
    """
    build = workflow._build_dag

    def build_dag() -> None:
        workflow.dag.forcefiles.update(outdated)
        build()
        for job in workflow.dag.needrun_jobs():
            for file in outdated.keys() & set(job.output):
                reason = workflow.dag.reason(job)
                reason.forced = False  # which hides all else
                if outdated[file] is None:
                    reason.missing_output.add(file)
                else:
                    reason.params_changed = outdated[file]

    workflow._build_dag = build_dag
