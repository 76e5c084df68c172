"""Which rows of a throughput table are measurements of a study's cells."""

import json
from pathlib import Path

from study.measure.measurement import read_measurements
from tests.study.conftest import MakeGrid, measured, write_lines, write_run


def test_rows_of_removed_cells_and_without_a_speed_are_none(make_grid: MakeGrid) -> None:
    """Of four runs, two are no longer in the grid, and one was killed after its first record."""
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    write_run(grid[1], status="failed", steps_done=1)
    killed = Path(grid[1].folder, "metrics.jsonl")
    write_lines(killed, [json.loads(killed.read_text().splitlines()[0])])
    measured(grid)
    smaller = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]}]})
    table = Path(grid.study.folder, "throughput.csv")
    assert [item.cell.name for item in read_measurements(table, smaller)] == [grid[0].name]
