"""Measured speeds, read from throughput.csv."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from study.grid import Cell, Grid
from study.measure.throughput_row import ThroughputRow, read_rows
from trainer.execution.choices import Dtype


@dataclass(frozen=True)
class Measurement:
    """A measured speed, with its cell and its source."""

    cell: Cell
    """The measured cell: labels, cluster and settings."""
    source: str
    """Who measured it; empty for the study's own runs."""
    completed: bool
    """The run has ended: after all its steps, or because it diverged."""
    uninterrupted: bool
    """All steps were done in one attempt, so that wall_s is the duration of the run."""
    step_s: tuple[float, float, float]
    """10th, 50th and 90th percentiles of the step time, s."""
    startup_s: float | None
    """From process start to the end of the first step, s."""
    wall_s: float | None
    """Duration of the whole run, s."""
    peak_memory_gib: float | None
    """Peak memory of one GPU, or of one process on a CPU, GiB."""
    gpu_name: str | None = None
    """GPU or CPU, as the machine reports it; None if it was not recorded."""
    model_dtype: Dtype | None = None
    """dtype of the forward and backward pass; None if it was not recorded."""
    machine_load: float | None = None
    """Cores used by other processes during the run."""
    machine_cores: float | None = None
    """Cores available to the run."""
    steps_only: bool = False
    """Only the steps were measured, not the start-up or the whole run: it is from a log."""
    mean_s: float | None = None
    """Mean step time, s; None if only one time is known."""
    mean_error_s: float | None = None
    """Its standard error, s; None if it is not known, as that of one interval."""
    steady_steps: int | None = None
    """Steps that the times are of; None if it is not known."""
    steady_intervals: int | None = None
    """Intervals that these were measured in; None if it is not known."""
    diverged: bool = False
    """The run ended with a loss or weights that are not finite."""
    steps_done: int | None = None
    """The last step that the run took; None if it was not recorded."""

    @property
    def mean_step_s(self) -> float:
        """Mean step time, s, which gives the time of many steps; the median if it is not known."""
        return self.step_s[1] if self.mean_s is None else self.mean_s

    @property
    def outside_s(self) -> float | None:
        """What the whole run took outside of its steps after the first one, s; None if not known.

        It may be negative if the time of the run and that of its steps contradict each other.
        """
        if not self.uninterrupted or self.wall_s is None:
            return None
        return self.wall_s - (self.cell.run.steps - 1) * self.mean_step_s


def read_measurements(csv_path: str | Path, grid: Grid, ended: bool = False) -> list[Measurement]:
    """Return the rows of throughput.csv that have a speed and match a cell's current settings.

    `ended`: the table and the grid belong to an earlier study and were written together, so that a
    row matches the cell that it names, whatever version of the trainer made its fingerprint.
    """
    measurements = []
    for row in read_rows(csv_path):
        cell = grid.by_name.get(row.cell_name)
        if cell is None or row.step_ms_p50 is None:
            continue
        if ended or row.fingerprint == cell.fingerprint:
            measurements.append(_measurement(cell, row))
    return measurements


def _measurement(cell: Cell, row: ThroughputRow) -> Measurement:
    middle = row.step_ms_p50
    assert middle is not None
    p10, p50, p90 = (
        (middle if value is None else value) / 1e3
        for value in (row.step_ms_p10, middle, row.step_ms_p90)
    )
    return Measurement(
        cell=cell.on_nodes(row.nodes),
        source="",
        completed=row.status == "completed",
        uninterrupted=row.outcome == "trained"
        and row.attempts == 1
        and row.first_step in (None, 1),
        step_s=(p10, p50, p90),
        startup_s=row.startup_s,
        wall_s=row.wall_s,
        peak_memory_gib=row.peak_memory_gib,
        gpu_name=row.gpu_name,
        model_dtype=row.model_dtype,
        machine_load=row.machine_load,
        machine_cores=row.machine_cores,
        mean_s=None if row.step_ms_mean is None else row.step_ms_mean / 1e3,
        mean_error_s=None if row.step_ms_mean_error is None else row.step_ms_mean_error / 1e3,
        steady_steps=row.steady_steps,
        steady_intervals=row.steady_intervals,
        diverged=row.outcome == "diverged",
        steps_done=row.steps_done,
    )


def step_mean(
    times_s: NDArray[np.float64], steps: NDArray[np.int64]
) -> tuple[float | None, float | None]:
    """Return the mean step time and its standard error, s; None if not known.

    `times_s` and `steps`, of shape (intervals,): mean step time and number of steps of each. The
    steps of an interval may be correlated, so the error is from the spread of the intervals, each
    weighted by its steps.
    """
    if not len(steps):
        return None, None
    weights = steps / steps.sum()
    mean = float(weights @ times_s)
    if len(steps) < 2:
        return mean, None
    square = float(((weights * (times_s - mean)) ** 2).sum())
    return mean, math.sqrt(square * len(steps) / (len(steps) - 1))
