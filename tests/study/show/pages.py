"""The page of a study's runs."""

from pathlib import Path

from study.estimate.accuracy import Accuracy
from study.estimate.estimate import estimate_table
from study.grid import Grid
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from study.show.report import render_report
from tests.study.conftest import throughput_table


def report(grid: Grid, folder: Path) -> str:
    """Return the report of a study's runs; writes its throughput.csv."""
    table = throughput_table(grid)
    write_table(throughput_rows(grid), folder / "throughput.csv")
    measurements = read_measurements(folder / "throughput.csv", grid)
    return render_report(
        grid,
        table,
        estimate_table(grid, measurements),
        Accuracy.of(grid.study, measurements),
        folder,
        folder,
    )
