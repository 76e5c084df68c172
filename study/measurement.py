"""A measured speed: of which cell, by whom, and how it came about; read from throughput.csv."""

import csv
from dataclasses import dataclass
from pathlib import Path

from study.grid import CELL_NAME, Cell, Grid
from trainer.config import ConfigError


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
    machine_load: float | None = None
    """Cores that other processes took meanwhile."""
    machine_cores: float | None = None
    """Cores that the run might use."""


def read_measurements(csv_path: str | Path, grid: Grid) -> list[Measurement]:
    """Return the rows of throughput.csv that have a speed and belong to cells as they are now.

    Raises ConfigError where the file cannot be read, or is no throughput table.
    """
    try:
        with Path(csv_path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(csv_path), [f"cannot be read: {error}"]) from None
    cells = {(cell.name, cell.run.fingerprint(cell.gpus)): cell for cell in grid}
    measurements = []
    for number, row in enumerate(rows, start=2):
        try:
            name = CELL_NAME.format(**row)
            cell = cells.get((name, row["fingerprint"]))
            if cell is not None and row["step_ms_p50"]:
                measurements.append(_measurement(cell, row))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"line {number}: not a row of a throughput table: {error!r}"
            raise ConfigError(str(csv_path), [problem]) from None
    return measurements


def _measurement(cell: Cell, row: dict[str, str]) -> Measurement:
    p10, p50, p90 = (float(row[f"step_ms_{name}"]) / 1e3 for name in ("p10", "p50", "p90"))

    def number(name: str) -> float | None:
        # Tables written before a column was added lack it.
        return float(row[name]) if row.get(name) else None

    return Measurement(
        cell=cell,
        source="",
        completed=row["status"] == "completed",
        uninterrupted=row["outcome"] == "trained" and row["attempts"] == "1",
        step_s=(p10, p50, p90),
        startup_s=number("startup_s"),
        wall_s=number("wall_s"),
        peak_memory_gib=number("peak_memory_gib"),
        machine_load=number("machine_load"),
        machine_cores=number("machine_cores"),
    )
