"""Which rows of a throughput table are measurements of a study's cells."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.measure.measurement import read_measurements, step_mean
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
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


def test_a_measurement_has_what_its_row_says(make_grid: MakeGrid, tmp_path: Path) -> None:
    """Times in milliseconds become seconds; a table without a mean has the median for it."""
    grid = make_grid()
    write_run(grid[1])
    (row,) = throughput_rows(grid)
    table = tmp_path / "throughput.csv"
    times = {"step_ms_p10": 90.0, "step_ms_p50": 100.0, "step_ms_p90": 130.0}
    mean = {"step_ms_mean": 110.0, "step_ms_mean_error": 2.5}
    steps = {"steady_steps": 31, "steady_intervals": 7, "steps_done": 33, "status": "running"}
    facts = {"startup_s": 5.0, "wall_s": 60.0, "peak_memory_gib": 3.5, "gpu_name": "EPYC"}
    machine = {"machine_load": 0.25, "machine_cores": 6, "model_dtype": "fp32"}
    write_table([replace(row, **times, **mean, **steps, **facts, **machine)], table)
    (item,) = read_measurements(table, grid)
    assert (item.cell.name, item.source, item.completed) == (grid[1].name, "", False)
    assert item.step_s == pytest.approx((0.09, 0.1, 0.13))
    assert (item.mean_step_s, item.mean_error_s) == pytest.approx((0.11, 0.0025))
    assert (item.steady_steps, item.steady_intervals, item.steps_done) == (31, 7, 33)
    for name, value in (facts | machine).items():
        assert getattr(item, name) == value, name
    unknown = dict.fromkeys(("step_ms_p10", "step_ms_p90", *mean))
    write_table([replace(row, step_ms_p50=100.0, first_step=None, **unknown)], table)
    (item,) = read_measurements(table, grid)
    assert (*item.step_s, item.mean_step_s) == pytest.approx((0.1, 0.1, 0.1, 0.1))
    assert (item.mean_s, item.mean_error_s, item.uninterrupted) == (None, None, True)
    write_table([replace(row, **times, step_ms_mean=None)], table)
    assert read_measurements(table, grid)[0].mean_step_s == pytest.approx(0.1)


def test_only_the_table_of_an_earlier_study_may_have_other_fingerprints(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """It was written together with its grid, by the version of the trainer at that time."""
    grid = make_grid()
    write_run(grid[0])
    (row,) = throughput_rows(grid)
    write_table([replace(row, fingerprint="0" * 16)], tmp_path / "throughput.csv")
    assert read_measurements(tmp_path / "throughput.csv", grid) == []
    (item,) = read_measurements(tmp_path / "throughput.csv", grid, ended=True)
    assert item.cell.name == grid[0].name


def test_the_error_of_a_mean_is_from_the_spread_of_intervals() -> None:
    """30 steps of 1 s and 10 of 2 s: weights of 3/4 and 1/4, deviations of -1/4 and 3/4.

    sqrt(2 / (2 - 1) * ((3/4 * 1/4)^2 + (1/4 * 3/4)^2)) = 3/8.
    """
    mean, error = step_mean(np.array([1.0, 2.0]), np.array([30, 10]))
    assert (mean, error) == (pytest.approx(1.25), pytest.approx(0.375))
    assert step_mean(np.array([2.0]), np.array([10])) == (2.0, None)
    assert step_mean(np.array([]), np.array([], int)) == (None, None)
