"""What becomes of a job that has ended: done, continued, tried again, or given up.

A job that the cluster ended after its run had saved is continued by a new job, as often as that
makes progress. A failure is retried, up to the profile's `retries`; only what an attempt ran out of
is requested again in a larger amount.
"""

from dataclasses import dataclass, replace
from typing import Literal

GONE = "GONE"
"""State of a job that neither squeue nor the accounting knows."""

Action = Literal["done", "continue", "retry", "give up"]


@dataclass(frozen=True)
class End:
    """What is known about a job that has ended."""

    state: str
    """Slurm's state, or GONE."""
    complete: bool
    """Its outputs are complete."""
    saved_step: int | None = None
    """The step at which a run was asked to stop and saved; None if it was not."""
    first_step: int = 0
    """The last recorded step before the job."""
    out_of_memory: bool = False
    """Slurm ended it for lack of memory."""
    time_up: bool = False
    """It has run for about as long as it may, see `is_time_up`."""
    kept: bool = False
    """It was submitted by an earlier invocation, perhaps with other settings."""


@dataclass(frozen=True)
class Verdict:
    """What to do, and why."""

    action: Action
    reason: str = ""


@dataclass(frozen=True)
class Shortage:
    """How often a cell's attempts have run out of time and of memory."""

    time: int = 0
    memory: int = 0


NO_SHORTAGE = Shortage()

_shortages: dict[str, Shortage] = {}


def find_shortage(name: str) -> Shortage:
    """Return what the attempts of a cell, or another job, ran out of in this invocation."""
    return _shortages.get(name, NO_SHORTAGE)


def note_shortage(name: str, end: End) -> None:
    """Note what a job ran out of."""
    known = find_shortage(name)
    if end.out_of_memory or end.state == "OUT_OF_MEMORY":
        _shortages[name] = replace(known, memory=known.memory + 1)
    elif end.state in ("TIMEOUT", "DEADLINE") or (
        end.state in ("FAILED", "COMPLETED") and end.saved_step is not None and end.time_up
    ):
        _shortages[name] = replace(known, time=known.time + 1)


EARLY_S = 60
"""Slurm may send the signal before the time limit so many seconds early; sbatch(1), --signal."""


def is_time_up(used_s: float | None, limit_s: float | None, warn_s: int) -> bool:
    """Return whether a job that saved was told to because its time limit was near.

    `used_s`: for how long it has run, `limit_s`: its limit, None if they are not known; `warn_s`:
    seconds before the limit at which it is signalled. Otherwise a person has told it, or Slurm that
    preempts it and gives it a time of grace, and it needs no more time.
    """
    if used_s is None or limit_s is None:
        return False
    return used_s >= limit_s - warn_s - EARLY_S


def judge(end: End) -> Verdict:
    """Return what becomes of a job."""
    ended = ("COMPLETED", GONE, "PREEMPTED", "NODE_FAIL", "CANCELLED", "TIMEOUT", "DEADLINE")
    if end.complete and end.state in ended:  # perhaps by another job
        return Verdict("done")
    if end.state == "CANCELLED":
        return Verdict(
            "give up",
            "It was cancelled and is not retried. Start Snakemake again to resume from the "
            "newest checkpoint.",
        )
    if end.saved_step is not None and end.saved_step > end.first_step:
        return Verdict("continue", f"{_what_stopped(end)}, saved at step {end.saved_step}")
    if end.state == "PREEMPTED":
        return Verdict("continue", "preempted")
    if end.state == "COMPLETED" and end.kept:
        return Verdict("continue", "settings have changed")
    if end.state == "COMPLETED":
        return Verdict("retry", "It exited with code 0, but its outputs are not complete.")
    if end.out_of_memory or end.state == "OUT_OF_MEMORY":
        return Verdict("retry", "It exceeded its memory; a retry requests more.")
    if end.saved_step is not None:
        return Verdict("retry", "It was stopped before it had taken a step.")
    if end.state in ("TIMEOUT", "DEADLINE"):
        return Verdict("retry", "It reached its time limit; a retry requests more.")
    if end.state == GONE:
        return Verdict("retry", "Slurm no longer lists it, and its outputs are not complete.")
    return Verdict("retry")


def _what_stopped(end: End) -> str:
    told = {"PREEMPTED": "preempted", "NODE_FAIL": "node failure"}
    ran_out = end.time_up or end.state in ("TIMEOUT", "DEADLINE")
    return told.get(end.state, "time limit" if ran_out else "stopped")
