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
        end.state in ("FAILED", "COMPLETED") and end.saved_step is not None
    ):
        _shortages[name] = replace(known, time=known.time + 1)


def judge(end: End) -> Verdict:
    """Return what becomes of a job."""
    if end.complete and end.state in ("COMPLETED", GONE, "PREEMPTED", "NODE_FAIL"):
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
    return {"PREEMPTED": "preempted", GONE: "stopped", "NODE_FAIL": "node failure"}.get(
        end.state, "time limit"
    )
