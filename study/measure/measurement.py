"""A measured speed: of which cell, by whom, and how it came about; read from throughput.csv."""

from dataclasses import dataclass
from pathlib import Path

from study.grid import CELL_NAME, Cell, Grid
from study.measure.throughput_row import ThroughputRow, read_rows
from trainer.execution.choices import Dtype


@dataclass(frozen=True)
class Measurement:
    """A measured speed: of which cell, by whom, and how it came about."""

    cell: Cell
    """What was measured: labels, cluster and settings."""
    source: str
    """Who measured it; empty for the study's own runs."""
    completed: bool
    """The run has ended, with all its steps or with a loss that is not finite."""
    uninterrupted: bool
    """All steps were done in one attempt, so that wall_s is what the run took."""
    step_s: tuple[float, float, float]
    """10th, 50th and 90th percentile of the step time, s."""
    startup_s: float | None
    """From process start to the end of the first step, s."""
    wall_s: float | None
    """The whole run, s."""
    peak_memory_gib: float | None
    """Peak memory of one GPU, or of one process on a CPU, GiB."""
    gpu_name: str | None = None
    """GPU, or processor, as the machine named it; None if nobody noted it."""
    model_dtype: Dtype | None = None
    """Arithmetic that the run used; None if nobody noted it."""
    machine_load: float | None = None
    """Cores that other processes took meanwhile."""
    machine_cores: float | None = None
    """Cores that the run might use."""


def read_measurements(csv_path: str | Path, grid: Grid, ended: bool = False) -> list[Measurement]:
    """Return the rows of throughput.csv that have a speed and belong to cells as they are now.

    `ended`: the table and the grid are of an earlier study and were written together, so that a row
    belongs to the cell that it names, whatever version of the trainer made its fingerprint.
    """
    cells = {cell.name: cell for cell in grid}
    measurements = []
    for row in read_rows(csv_path):
        cell = cells.get(CELL_NAME.format(**vars(row)))
        if cell is None or row.step_ms_p50 is None:
            continue
        if ended or row.fingerprint == cell.run.fingerprint(cell.gpus):
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
        cell=cell,
        source="",
        completed=row.status == "completed",
        uninterrupted=row.outcome == "trained" and row.attempts == 1,
        step_s=(p10, p50, p90),
        startup_s=row.startup_s,
        wall_s=row.wall_s,
        peak_memory_gib=row.peak_memory_gib,
        gpu_name=row.gpu_name,
        model_dtype=row.model_dtype,
        machine_load=row.machine_load,
        machine_cores=row.machine_cores,
    )
