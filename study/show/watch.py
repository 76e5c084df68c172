"""The live view of a study: each cell's state, and when the study should be done.

It reads the runs' files, the record of submitted jobs and, once for each view, squeue; it writes
nothing, so it may run anywhere beside the invocation that it shows. Files may be cut off or being
replaced while it reads them.
"""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from study.estimate.forecast import Forecast
from study.formats import format_seconds
from study.grid import Cell, Grid
from study.jobs.progress import SUSPENDED, WAITING, later_day, time_in, time_to_end
from study.jobs.slurm_jobs import QueuedJob, list_jobs, why_stuck
from study.jobs.submitted import comment_of, log_folder, record_of
from study.measure.summaries import first_line, is_stale, read_failure, read_summary
from study.points import AXES
from study.show.run_progress import RunProgress, find_slowness, read_progress
from trainer.folder.run_file import find_summary
from trainer.problems import ConfigError
from trainer.records import METRICS, SUMMARY, RunSummary

State = Literal["done", "diverged", "failed", "running", "suspended", "waiting", "to run"]

ORDER: tuple[State, ...] = (
    "running",
    "suspended",
    "failed",
    "waiting",
    "to run",
    "diverged",
    "done",
)
"""The order in which cells are shown."""

UNFINISHED = frozenset({"running", "suspended", "waiting", "to run"})
"""States of cells whose time is still to come."""

SILENT_S = 120
"""Time without a record after which a run is called silent, if ten intervals are not longer."""

STARTING_S = 900
"""The same before the first record: compiling may take minutes."""


@dataclass(frozen=True)
class Seen:
    """A cell as its files and the queue show it."""

    cell: Cell
    state: State
    note: str = ""
    attempt: int = 0
    """Number of the attempt that runs or ran last; 0 if there was none."""
    progress: RunProgress | None = None
    steps_done: int | None = None
    """Steps of a completed run, which are fewer if it diverged; None for any other."""
    left_s: float | None = None
    """Time that is left, s: of the run, or of the whole run before it starts."""


class Watch:
    """The cells of a study that are to be measured, looked at again and again."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._forecast: Forecast | None = None
        self._made_of = -1.0
        self._logs = log_folder(grid)
        self._silence = ""
        self._ended: dict[str, RunProgress | None] = {}
        self._on_slurm = any(cell.cluster_config.slurm is not None for cell in grid.measured)

    def look(self) -> list[Seen]:
        """Return all cells, in the grid's order. Raises ConfigError if a table is malformed."""
        jobs = self._jobs()
        return [self._see(cell, jobs.get(_comment(cell))) for cell in self._grid.measured]

    def summary(self, seen: list[Seen]) -> str:
        """Return how many cells there are in each state, and when the study should be done."""
        counts = Counter(item.state for item in seen)
        parts = [f"{counts[state]} {state}" for state in reversed(ORDER) if counts[state]]
        left = self._left_s(seen)
        if left:
            end = time_in(left)
            parts.append(f"done at about {end:%H:%M}{later_day(end)}, in {format_seconds(left)}")
        parts += [self._silence] if self._silence else []
        return f"{self._grid.study.study}: " + ", ".join(parts)

    def _jobs(self) -> Mapping[str, QueuedJob]:
        """Return comment -> job of this study in the queue. One squeue for each Slurm cluster."""
        if not self._on_slurm:
            return {}
        submitted = record_of(self._logs).submissions()
        users = {known.user for known in submitted}
        listed = list_jobs({known.cluster for known in submitted}, users)
        self._silence = listed.silence()
        pairs = ((known, listed.jobs.get((known.cluster, known.job_id))) for known in submitted)
        return {known.comment: job for known, job in pairs if job and job.is_active}

    def _see(self, cell: Cell, job: QueuedJob | None) -> Seen:
        summary = find_summary(cell.folder)
        failure = read_failure(cell.folder) if summary is None and job is None else None
        if failure is not None:
            return Seen(cell, "failed", first_line(failure.message))
        if summary is not None and is_stale(cell, summary):
            summary = None
        attempt = summary.attempts[-1].attempt if summary and summary.attempts else 0
        if summary is not None and summary.status == "completed":
            diverged = summary.outcome == "diverged"
            done = summary.steps_done
            note = f"at step {done:,}" if diverged else ""
            progress = self._at_the_end(cell)
            return Seen(cell, "diverged" if diverged else "done", note, attempt, progress, done)
        if job is not None and job.state in WAITING:
            stuck = why_stuck(job)
            never = f": it {stuck[0]}" if stuck else ""
            again = f"; attempt {attempt + 1}" if attempt else ""
            note = f"{job.reason}{never}, Slurm job {job.label}{again}"
            goes_on = attempt > 0 and cell.trainer_config.resumes
            progress, left = self._so_far(cell, goes_on, _last_startup_s(summary))
            return Seen(cell, "waiting", note, attempt, progress, left_s=left)
        if summary is None:
            state: State = "running" if job else "to run"
            state = "suspended" if job and job.state in SUSPENDED else state
            note = f"starts, Slurm job {job.label}" if job else _unreadable(cell)
            return Seen(cell, state, note, left_s=self._whole_s(cell))
        return self._unfinished(cell, summary, attempt, job)

    def _unfinished(
        self, cell: Cell, summary: RunSummary, attempt: int, job: QueuedJob | None
    ) -> Seen:
        begins_again = job is not None and not cell.trainer_config.resumes
        runs = summary.status == "running"
        startup_s = 0.0 if runs else _last_startup_s(summary)
        progress, left = self._so_far(cell, runs or not begins_again, startup_s)
        if job is not None and job.state in SUSPENDED:
            note = f"Slurm job {job.label}"
            return Seen(cell, "suspended", note, attempt, progress, left_s=left)
        if runs:
            silent_s = self._silence_s(cell)
            limit = max(SILENT_S, 10 * progress.interval_s) if progress else STARTING_S
            if job is not None or silent_s <= limit:
                notes = [f"attempt {attempt}"] if attempt > 1 else []
                notes += [] if progress and progress.attempt == attempt else ["starts"]
                if silent_s > limit:
                    notes.append(f"silent for {format_seconds(silent_s)}")
                notes += find_slowness(progress) if progress else []
                return Seen(cell, "running", "; ".join(notes), attempt, progress, left_s=left)
            note = f"no record for {format_seconds(silent_s)}: killed, or it hangs"
            return Seen(cell, "failed", note, attempt, progress, left_s=left)
        if job is not None:
            note = f"attempt {attempt + 1}; starts"
            return Seen(cell, "running", note, attempt, progress, left_s=left)
        if summary.status == "failed":
            failure = read_failure(cell.folder)
            note = first_line(failure.message) if failure else ""
            return Seen(cell, "failed", note, attempt, progress, left_s=left)
        note = f"{summary.status}; goes on"
        return Seen(cell, "to run", note, attempt, progress, left_s=left)

    def _so_far(
        self, cell: Cell, goes_on: bool, startup_s: float
    ) -> tuple[RunProgress | None, float | None]:
        """Return what the records so far tell, and the time that is left, s.

        `goes_on`: the run does not begin again; `startup_s`: what it then needs before a step.
        """
        progress = read_progress(Path(cell.folder, METRICS)) if goes_on else None
        if progress is None:
            return None, self._whole_s(cell)
        return progress, startup_s + (cell.run.steps - progress.step) * progress.pace_s

    def _at_the_end(self, cell: Cell) -> RunProgress | None:
        """Return what the records of a completed run tell; they are read once."""
        if cell.name not in self._ended:
            self._ended[cell.name] = read_progress(Path(cell.folder, METRICS))
        return self._ended[cell.name]

    def _silence_s(self, cell: Cell) -> float:
        """Return the age of the newest of a run's files, s."""
        times = []
        for name in (METRICS, SUMMARY):
            try:
                times.append(Path(cell.folder, name).stat().st_mtime)
            except OSError:
                continue
        return time.time() - max(times) if times else 0.0

    def _whole_s(self, cell: Cell) -> float | None:
        """Return the estimated time of a run, s, from the study's newest throughput table."""
        try:
            made = Path(self._grid.study.folder, "throughput.csv").stat().st_mtime
        except OSError:
            made = 0.0
        if self._forecast is None or made != self._made_of:
            self._forecast, self._made_of = Forecast(self._grid), made
        seconds: float | None = self._forecast.estimate(cell).seconds
        return seconds

    def _left_s(self, seen: list[Seen]) -> float | None:
        """Return the time until the end, s; None if that is not known."""
        unfinished = [item for item in seen if item.state in UNFINISHED]
        left = [item.left_s for item in unfinished if item.left_s is not None]
        running = sum(item.state == "running" for item in unfinished)
        if not running or len(left) < len(unfinished):
            return None
        return time_to_end(left, running)


def _last_startup_s(summary: RunSummary | None) -> float:
    """Return the start-up of the last attempt that got to its first step, s; 0 if none did."""
    attempts = summary.attempts if summary else ()
    known = [item.startup_s for item in attempts if item.startup_s is not None]
    return known[-1] if known else 0.0


def _unreadable(cell: Cell) -> str:
    """Return why a cell's run.json cannot be read, as another user's; "" if it can, or is not
    there."""
    try:
        read_summary(cell.folder)
    except ConfigError as error:
        return first_line(str(error))
    return ""


def _comment(cell: Cell) -> str:
    return comment_of("train", [str(cell.labels[axis]) for axis in AXES])
