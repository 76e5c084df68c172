"""Where the time of a run went: start-up, compilation, steps, data, saves and evaluations."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from study.measure.records import begins_attempt
from study.measure.run_files import Run
from trainer.records import Attempt

PARTS = {
    "start-up": "From process start to the end of the first step, without compilation.",
    "compile": "Compiling the model's blocks before the first step.",
    "compute": "Optimizer steps after the first one, without waiting for data.",
    "data": "Waiting for data.",
    "save": "Time that training waited for checkpoints.",
    "evaluate": "Evaluating on held-out text.",
    "other": "The rest of the run: shutting down, and what a killed attempt did not record.",
}
"""Part of a run's time -> what it holds."""


def time_by_part(run: Run) -> dict[str, float] | None:
    """Return part of `PARTS` -> s; None if no attempt got through its first step."""
    attempts = run.summary.attempts
    started = [item for item in attempts if item.startup_s is not None]
    wall_s = run.wall_s
    if not started or wall_s is None:
        return None
    startup_s = math.fsum((item.startup_s or 0.0) - _compile_s(item) for item in started)
    steps_s, data_s = _steps(run)
    parts = {
        "start-up": startup_s,
        "compile": math.fsum(map(_compile_s, attempts)),
        "compute": steps_s - data_s,
        "data": data_s,
        "save": _column(run, "checkpoint_s").sum() + _unrecorded(run, "checkpoint_s"),
        "evaluate": _column(run, "eval_s").sum() + _unrecorded(run, "eval_s"),
    }
    parts = {part: float(seconds) for part, seconds in parts.items()}
    return {**parts, "other": max(0.0, wall_s - math.fsum(parts.values()))}


def _steps(run: Run) -> tuple[float, float]:
    """Return the time of steps, s, and of it the time of waiting for data.

    Without the first step of each attempt, which belongs to the start-up; if its own time is not
    known, without the interval in which it is.
    """
    steps_s = _column(run, "step_s") * _column(run, "interval_steps")
    attempts = _column(run, "attempt")
    first_s = {item.attempt: item.startup.get("first_step_s") for item in run.summary.attempts}
    for index in np.flatnonzero(begins_attempt(attempts)):
        of_first = first_s.get(int(attempts[index]))
        steps_s[index] = 0.0 if of_first is None else max(0.0, steps_s[index] - of_first)
    waited_s = np.minimum(_column(run, "data_s"), steps_s)
    return (
        float(steps_s.sum()) + _unrecorded(run, "steps_s"),
        float(waited_s.sum()) + _unrecorded(run, "data_s"),
    )


def _column(run: Run, name: str) -> NDArray[Any]:
    return np.nan_to_num(run.records.column(name))


def _unrecorded(run: Run, name: str) -> float:
    return math.fsum(item.unrecorded.get(name, 0.0) for item in run.summary.attempts)


def _compile_s(attempt: Attempt) -> float:
    return attempt.startup.get("compile_s") or 0.0
