"""The tables that figures and report read."""

from pathlib import Path

import pytest

from study.estimate.accuracy import BACKTEST, CHECKS, LEFT_OUT, Accuracy, read_accuracy
from study.estimate.calibration import MOST_SHOWN, leave_one_out
from study.estimate.scored import ScoredPrediction
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from tests.study.conftest import MakeGrid, write_run
from trainer.problems import ConfigError


def test_left_out_configurations_are_those_of_the_check(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": ["tiny", "wide"], "gpus": [1, 2, 4]}]})
    for cell in grid:
        write_run(cell, cell.params * 1e-6 * (1 + 0.1 * cell.gpus), startup_s=4.0)
    write_table(throughput_rows(grid), tmp_path / "throughput.csv")
    measurements = read_measurements(tmp_path / "throughput.csv", grid)
    accuracy = Accuracy.of(grid.study, measurements)
    found = accuracy.left_out
    assert [item.cell for item in found] == [cell.name for cell in grid]
    assert len(found) <= MOST_SHOWN
    for item, cell in zip(found, grid, strict=True):
        assert item.step_ms_measured == pytest.approx(cell.params * 1e-3 * (1 + 0.1 * cell.gpus))
        assert item.error == pytest.approx(item.step_ms / item.step_ms_measured - 1)
        assert item.inside == (item.step_ms_low <= item.step_ms_measured <= item.step_ms_high)
    one_cell = next(check for check in accuracy.checks if check.left_out == "one cell")
    assert max(abs(item.error) for item in found) == pytest.approx(one_cell.largest_error)
    assert sum(item.inside for item in found) / len(found) == one_cell.coverage
    assert leave_one_out(measurements[:1]) == []


def test_the_tables_are_read_back_as_written(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, cell.params * 1e-6)
    write_table(throughput_rows(grid), tmp_path / "throughput.csv")
    measurements = read_measurements(tmp_path / "throughput.csv", grid)
    made = Accuracy.of(grid.study, measurements)
    when = "2026-01-01T00:00:00+00:00"
    prediction = ScoredPrediction("a", 2.0, 1.0, 4.0, 5.0, -0.6, False, when, "Estimated")
    Accuracy(made.checks, made.left_out, [prediction]).write(tmp_path / "time_estimates.csv")
    read = read_accuracy(tmp_path / "time_estimates.csv")
    assert read.backtest == [prediction]
    assert [item.cell for item in read.left_out] == [item.cell for item in made.left_out]
    assert [item.inside for item in read.left_out] == [item.inside for item in made.left_out]
    assert read.left_out[0].step_ms == pytest.approx(made.left_out[0].step_ms, rel=1e-6)
    assert [check.cells for check in read.checks] == [check.cells for check in made.checks]


@pytest.mark.parametrize("name", [CHECKS, LEFT_OUT, BACKTEST])
def test_a_broken_table_is_named_with_its_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "time_estimates.csv"
    Accuracy([], [], []).write(path)
    assert read_accuracy(path) == Accuracy([], [], [])
    with (tmp_path / name).open("a") as file:
        file.write("here" + ",half" * 6 + "\n")
    with pytest.raises(
        ConfigError,
        match=rf"{name}.*\n.*line 2: not .*delete it, for .* study estimate`",
    ):
        read_accuracy(path)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}.*\n.*cannot be read"):
        read_accuracy(path)
