"""Where the time of a run went: start-up, compilation, steps, data, saves and evaluations."""

import math

import numpy as np

from study.measure.logs import Run
from study.measure.records import begins_attempt
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
    columns = {
        name: np.nan_to_num(run.records.column(name))
        for name in ("step_s", "interval_steps", "data_s", "checkpoint_s", "eval_s", "attempt")
    }
    # The first interval of an attempt is its first step, which belongs to the start-up.
    later = ~begins_attempt(columns["attempt"])
    steps_s = float((columns["step_s"] * columns["interval_steps"])[later].sum())
    data_s = min(steps_s, float(columns["data_s"][later].sum()))
    parts = {
        "start-up": startup_s,
        "compile": math.fsum(map(_compile_s, attempts)),
        "compute": steps_s - data_s,
        "data": data_s,
        "save": float(columns["checkpoint_s"].sum()),
        "evaluate": float(columns["eval_s"].sum()),
    }
    return {**parts, "other": max(0.0, wall_s - math.fsum(parts.values()))}


def _compile_s(attempt: Attempt) -> float:
    return attempt.startup.get("compile_s") or 0.0
