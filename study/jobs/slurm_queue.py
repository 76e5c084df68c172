"""The jobs of one invocation in Slurm's queue: when Slurm is asked about them, how they ended.

A job notes its exit code in a file, which is seen within seconds; Slurm is asked less and less
often.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from study.grid import Cell
from study.jobs.job_script import ENDED, read_note
from study.jobs.messages import say
from study.jobs.slurm_jobs import (
    ENDS,
    Listing,
    QueuedJob,
    find_recorded_state,
    is_forgotten,
    list_jobs,
)
from study.jobs.submitted import Submission
from study.jobs.verdict import GONE
from trainer.records import RunSummary

LONGEST_POLL_S = 60
"""Most seconds between two questions to Slurm."""

SECOND_POLL_S = 5
"""Seconds until Slurm is asked again about a job that may have ended."""


@dataclass(kw_only=True)
class WatchedJob(SubmittedJobInfo):
    """A job of this invocation in Slurm's queue."""

    made: Submission
    cell: Cell | None
    """What it trains; None for other jobs."""
    kind: Hashable
    """What a submit limit applies to."""
    kept: bool = False
    """An earlier invocation submitted it, perhaps with other settings."""
    grown_from: int | None = None
    """Minutes of its cell's last request, if it asks for more."""
    before: RunSummary | None = None
    """The run.json in its run's folder when it was submitted or kept."""
    ended: float | None = None
    """When it was seen to have ended, on the monotonic clock, s; None while it runs."""


@dataclass(frozen=True)
class Look:
    """What was seen of the jobs at one time."""

    codes: dict[str, int | None]
    """A job's label -> exit code, of the jobs that have noted their end since the last look."""
    listed: Listing | None
    """squeue's answer; None if it was not asked."""

    def queued(self, info: WatchedJob) -> QueuedJob | None:
        """Return a job as squeue lists it."""
        listed = self.listed or Listing()
        return listed.jobs.get((info.made.cluster, info.made.job_id))


class SlurmQueue:
    """The jobs that were submitted or kept, and have not ended."""

    def __init__(self, logs: Path, first_poll_s: float) -> None:
        """`logs` is the study's folder of Slurm logs.

        `first_poll_s`: seconds until Slurm is asked after a job was added or has ended; half as
        much again after each answer.
        """
        self.jobs: dict[str, WatchedJob] = {}
        """By label."""
        self._logs, self._first_poll_s = logs, first_poll_s
        # Those that are there are of jobs that ended unseen, whose ids Slurm may give out again.
        self._seen = self._notes()
        self._doubts: Counter[str] = Counter()
        self._hidden: set[str] = set()
        self._next_poll = 0.0
        self.poll_s = first_poll_s

    def add(self, info: WatchedJob) -> None:
        """Add a job."""
        self.jobs[info.made.label] = info
        self.poll_within(self._first_poll_s)

    def remove(self, info: WatchedJob) -> None:
        """Remove a job that has ended."""
        label = info.made.label
        self.jobs.pop(label, None)
        self._seen.pop(label, None)
        self._doubts.pop(label, None)
        self._hidden.discard(label)
        self.poll_s = self._first_poll_s
        with contextlib.suppress(OSError):  # another user's, in a folder with the sticky bit
            (self._logs / ENDED / label).unlink()

    def is_due(self) -> bool:
        """Return whether there is something to look at."""
        return time.monotonic() >= self._next_poll or bool(self._new_notes())

    def look(self, active: Collection[WatchedJob]) -> Look:
        """Read the notes of jobs that have ended; ask Slurm about the active ones if it is time."""
        noted = self._new_notes()
        self._seen |= noted
        codes = {label: read_note(self._logs, label) for label in noted}
        asks = bool(active) and (time.monotonic() >= self._next_poll or any(codes.values()))
        if not asks:
            return Look(codes, listed=None)
        clusters = {info.made.cluster for info in active}
        listed = list_jobs(clusters, {info.made.user for info in active})
        self.poll_s = min(LONGEST_POLL_S, 1.5 * self.poll_s)
        self._next_poll = time.monotonic() + self.poll_s
        return Look(codes, listed)

    def find_end(self, info: WatchedJob, seen: Look) -> str | None:
        """Return the state in which a job has ended; None while it is active."""
        label, job_id, cluster = info.made.label, info.made.job_id, info.made.cluster
        if seen.codes.get(label) == 0:
            return "COMPLETED"
        if seen.listed is None or cluster in seen.listed.silent:
            return None
        queued = seen.queued(info)
        if queued is not None and queued.is_active:
            self._doubts[label] = 0
            return None
        state = GONE if queued is None else queued.state
        # For a moment, a job that Slurm requeues has the state that it was requeued for.
        if state in (GONE, "PREEMPTED", "NODE_FAIL"):
            self._doubts[label] += 1
            if self._doubts[label] < 2:
                self.poll_within(SECOND_POLL_S)
                return None
        if state != GONE:
            return state
        code = read_note(self._logs, label)
        if code == 0:
            return "COMPLETED"
        # A run that was cancelled saves, and its job notes an exit code like any other.
        recorded = find_recorded_state(job_id, cluster)
        if recorded and recorded not in ENDS and not is_forgotten(job_id, cluster):
            if label not in self._hidden:
                self._hidden.add(label)
                say(f"Slurm job {label}: not listed by squeue, but {recorded} by the accounting.")
            return None
        if recorded in ENDS:
            return recorded
        return GONE if code is None else "FAILED"

    def poll_within(self, seconds: float) -> None:
        """Have Slurm asked after so many seconds at the latest."""
        self._next_poll = min(self._next_poll, time.monotonic() + seconds)

    def _new_notes(self) -> dict[str, int]:
        """Return the jobs in the queue that have noted their end since the last look.

        Each with the time of its note: a job that Slurm requeues notes another end later.
        """
        return {
            label: changed
            for label, changed in self._notes().items()
            if label in self.jobs and self._seen.get(label) != changed
        }

    def _notes(self) -> dict[str, int]:
        """Return the labels of the jobs that have noted their end, each with the time of that."""
        found: dict[str, int] = {}
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._logs / ENDED):
                with contextlib.suppress(OSError):
                    found[entry.name] = entry.stat().st_mtime_ns
        return found
