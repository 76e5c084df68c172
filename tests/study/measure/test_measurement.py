"""Which rows of a throughput table are measurements of a study's cells."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from study.measure.measurement import read_measurements
from tests.study.conftest import MakeGrid, make_summary, measured, write_lines, write_run


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


@pytest.mark.parametrize(
    ("attempts", "outcome", "whole"),
    [
        pytest.param([{}], "trained", True, id="one attempt"),
        pytest.param([{"first_step": 21}], "trained", False, id="from another's checkpoint"),
        pytest.param([{}, {"attempt": 2, "first_step": 21}], "trained", False, id="resumed"),
        pytest.param([{}], "diverged", False, id="diverged"),
    ],
)
def test_a_run_that_did_all_its_steps_at_once_tells_how_long_it_takes(
    make_grid: MakeGrid, attempts: list[Mapping[str, Any]], outcome: str, whole: bool
) -> None:
    """40 steps of 0.1 s after a start-up of 4 s; of another, only its steps count."""
    grid = make_grid()
    (attempt,) = make_summary(grid[0], 4.0, 4.0 + 39 * 0.1)["attempts"]
    write_run(grid[0], outcome=outcome, attempts=[{**attempt, **each} for each in attempts])
    measured(grid)
    (item,) = read_measurements(Path(grid.study.folder, "throughput.csv"), grid)
    assert (item.completed, item.uninterrupted) == (True, whole)
    assert item.outside_s == (pytest.approx(4.0) if whole else None)
    assert (item.mean_step_s, item.steady_steps, item.diverged) == (
        pytest.approx(0.1), 39, outcome == "diverged",
    )  # fmt: skip
