"""A line every minute: which jobs run, which wait and why, and when the study should be done."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from study.grid import Cell, Grid
from study.jobs.messages import say
from study.jobs.slurm_jobs import Listing, QueuedJob, why_stuck
from trainer.folder.run_file import find_summary

FIRST_S, EVERY_S = 20, 60

WAITING = frozenset({"PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
"""States of jobs in the queue. The two after PENDING are held after they were requeued, the last
one after its reservation has ended."""

SUSPENDED = frozenset({"SUSPENDED", "STOPPED"})
"""States of jobs whose processes Slurm has stopped for a time."""

SHOWN = WAITING | SUSPENDED | {"RUNNING"}
"""States that the line counts."""

NOT_LOOKED_AT = "None"
"""Slurm's reason for a job that it has not looked at yet."""

NAMED = 3
"""Running cells that are named in the line."""


class Progress:
    """The training jobs of an invocation, as Slurm and the runs' files show them."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._cells: dict[str, Cell] = {}
        self._started: dict[str, float] = {}
        self._listed: dict[str, QueuedJob] = {}
        self._warned: set[str] = set()
        self._seconds: dict[str, float] = {}
        self._finished = self._total = 0
        self._whole_s = 0.0
        self._silence = ""
        self._next = time.monotonic() + FIRST_S

    def expect(self, seconds: Mapping[str, float | None]) -> None:
        """Take the cells to train, with the estimated time of each, s."""
        self._total = len(seconds)
        self._seconds = {name: known for name, known in seconds.items() if known is not None}
        self._whole_s = sum(self._seconds.values())

    def submitted(self, cell: Cell, label: str) -> None:
        """Note the job of a cell."""
        self._cells[label] = cell

    def replaced(self, label: str) -> None:
        """Forget a job that another one takes the place of."""
        self._cells.pop(label, None)

    def finished(self, cell: Cell) -> None:
        """Note that a cell's run is complete."""
        self._finished += 1
        self._seconds.pop(cell.name, None)
        self._started.pop(cell.name, None)
        # Until Slurm is asked again, it would be listed as running, too.
        self._listed = {
            label: job
            for label, job in self._listed.items()
            if self._cells[label].name != cell.name
        }

    def polled(self, listing: Listing) -> None:
        """Take squeue's answer; point out the jobs that waiting alone does not start."""
        self._silence = listing.silence()
        jobs = {job.label: job for job in listing.jobs.values() if job.label in self._cells}
        self._listed = {label: job for label, job in jobs.items() if job.state in SHOWN}
        for label, job in self._listed.items():
            if job.state == "RUNNING":
                self._started.setdefault(self._cells[label].name, time.monotonic())
            elif label not in self._warned and (stuck := why_stuck(job)):
                self._warned.add(label)
                means, remedy = stuck
                where = f"Slurm job {label} ({self._cells[label].name})"
                say(f"{where} {means}: {job.reason}. {remedy}")

    def show(self, not_submitted: int) -> None:
        """Print the line if a minute has passed since the last one, or 20 s since the start."""
        if time.monotonic() < self._next or not self._cells:
            return
        self._next = time.monotonic() + EVERY_S
        say(self.line(not_submitted))

    def line(self, not_submitted: int) -> str:
        """Return the line."""
        running = [label for label, job in self._listed.items() if job.state == "RUNNING"]
        paused = sum(job.state in SUSPENDED for job in self._listed.values())
        waiting = [job for job in self._listed.values() if job.state in WAITING]
        # What follows a comma are the nodes that it means.
        reasons = Counter(job.reason.partition(",")[0] for job in waiting)
        named = ", ".join(self._describe(self._cells[label]) for label in running[:NAMED])
        more = f", {len(running) - NAMED} more" if len(running) > NAMED else ""
        parts = [f"{len(running)} running" + (f" ({named}{more})" if named else "")]
        parts += [f"{paused} suspended"] if paused else []
        if reasons:
            known = [
                f"{count} {reason}"
                for reason, count in reasons.most_common()
                if reason != NOT_LOOKED_AT
            ]
            why = f" ({', '.join(known)})" if known else ""
            parts.append(f"{sum(reasons.values())} waiting{why}")
        if not_submitted:
            parts.append(f"{not_submitted} not yet submitted")
        parts.append(f"{self._finished} of {self._total} finished{self._share()}")
        end = self._end(len(running))
        parts += [f"done at about {end:%H:%M}{later_day(end)}"] if end else []
        parts += [self._silence] if self._silence else []
        return f"[{datetime.now():%H:%M}] Slurm: " + "; ".join(parts) + "."

    def _share(self) -> str:
        """Return the share of the finished runs in the estimated time of all, if it is known."""
        if not self._finished or len(self._seconds) < self._total - self._finished:
            return ""
        done = 1 - sum(self._seconds.values()) / self._whole_s if self._whole_s else 0.0
        return f" ({done:.0%} of their time)" if done > 0 else ""

    def _describe(self, cell: Cell) -> str:
        summary = find_summary(cell.folder)
        at = f" at step {summary.steps_done} of {cell.run.steps}" if summary else ""
        parts = [cell.cluster, cell.model, str(cell.gpus)]
        parts += [] if cell.variant == "base" else [cell.variant]
        # A copy: meanwhile, the thread that submits adds others.
        seeds = {one.seed for one in list(self._cells.values())}
        parts += [f"seed-{cell.seed}"] if len(seeds) > 1 else []
        return f"{'/'.join(parts)}{at}"

    def _end(self, running: int) -> datetime | None:
        """Return when the study should be done; None if that is not known."""
        if not running or len(self._seconds) < self._total - self._finished:
            return None
        left_s = [
            max(0.0, seconds - (time.monotonic() - self._started[name]))
            if name in self._started
            else seconds
            for name, seconds in self._seconds.items()
        ]
        return time_in(time_to_end(left_s, running))


def time_to_end(left_s: Sequence[float], running: int) -> float:
    """Return the time until all runs are done, s, if as many as now go on side by side.

    `left_s`: the time that each still needs, s.
    """
    return max(max(left_s, default=0.0), sum(left_s) / running)


def time_in(seconds: float) -> datetime:
    """Return the local time after so many seconds, also if clocks are changed meanwhile."""
    return datetime.fromtimestamp(time.time() + seconds)


def later_day(moment: datetime) -> str:
    """Return the day of a moment, to be added to its time; empty if it is today."""
    return "" if moment.date() == datetime.now().date() else f" on {moment:%a %d %b}"
