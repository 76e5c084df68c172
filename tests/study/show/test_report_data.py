import json
from pathlib import Path

import pytest

from study.estimate.calibration import MOST_SHOWN, estimate_checks, leave_one_out
from study.measure.logs import read_run, read_runs
from study.measure.measurement import read_measurements
from study.measure.throughput import throughput_rows, write_table
from study.show.report_data import PARTS, chart_data, time_by_part
from tests.study.conftest import MakeGrid, make_record, write_lines, write_run


def test_the_time_of_a_run_by_part(make_grid: MakeGrid) -> None:
    cell = make_grid()[0]
    write_run(
        cell,
        attempts=[
            {
                "attempt": n,
                "start": "2026-01-01T00:00:00+00:00",
                "wall_s": wall_s,
                "fingerprint": cell.fingerprint,
                "startup": {"imports_s": 1.0, "compile_s": compile_s, "total_s": total_s},
            }
            for n, wall_s, compile_s, total_s in [(1, 20.0, 2.0, 5.0), (2, 10.0, 1.0, 4.0)]
        ],
    )
    records = [
        # Attempt 1: its first step is part of the start-up; 4 steps of 0.5 s, of which 0.3 s data.
        {**make_record(cell, 1, 1, 3.0, 5.0, 5.0), "time/data_s": 9.0},
        {**make_record(cell, 5, 4, 0.5, 8.0, 4.0), "time/data_s": 0.3, "time/checkpoint_s": 0.7},
        # Attempt 2, likewise.
        {**make_record(cell, 6, 1, 3.0, 12.0, 4.0), "attempt": 2, "time/eval_s": 0.25},
        {**make_record(cell, 8, 2, 1.0, 14.0, 4.0), "attempt": 2, "time/eval_s": 0.5},
    ]
    write_lines(Path(cell.folder, "metrics.jsonl"), records)
    run = read_run(cell.folder)
    assert run is not None
    parts = time_by_part(run)
    expected = [6.0, 3.0, 3.7, 0.3, 0.7, 0.75, 30 - 14.45]
    assert parts == pytest.approx(dict(zip(PARTS, expected, strict=True)))


def test_the_parts_of_a_run_without_a_first_step_are_not_known(make_grid: MakeGrid) -> None:
    cell = make_grid()[0]
    attempt = {"attempt": 1, "start": "2026-01-01T00:00:00+00:00", "fingerprint": cell.fingerprint}
    write_run(cell, status="running", attempts=[attempt])
    Path(cell.folder, "metrics.jsonl").unlink()
    run = read_run(cell.folder)
    assert run is not None
    assert time_by_part(run) is None


def test_a_spike_and_a_gap_are_in_the_curve_that_is_drawn(make_grid: MakeGrid) -> None:
    grid = make_grid({"run": {"steps": 5000, "logging": {"freq": 1}}})
    cell = grid[0]
    losses = {2345: 99.0, 4321: None}
    write_run(cell, loss=lambda step: losses.get(step, 3.0 + 1 / step))
    data = chart_data(grid, read_runs(grid), [], [])
    json.dumps(data, allow_nan=False)
    (curve,) = data["curves"]
    drawn = dict(zip(curve["step"], curve["loss"], strict=True))
    assert drawn[2345] == 99.0
    assert drawn[4321] is None
    assert drawn[1] == 4.0 and drawn[5000] == 3.0
    assert len(drawn) < 3000
    assert data["cells"][0]["tokens"] == cell.tokens_per_step


def test_left_out_configurations_are_those_of_the_check(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": ["tiny", "wide"], "gpus": [1, 2, 4]}]})
    for cell in grid:
        write_run(cell, cell.params * 1e-6 * (1 + 0.1 * cell.gpus), startup_s=4.0)
    write_table(throughput_rows(grid), tmp_path / "throughput.csv")
    measurements = read_measurements(tmp_path / "throughput.csv", grid)
    found = leave_one_out(measurements)
    assert [item.cell.name for item in found] == [cell.name for cell in grid]
    assert len(found) <= MOST_SHOWN
    errors = [abs(item.predicted.middle / item.measured_s - 1) for item in found]
    one_cell = next(
        check for check in estimate_checks(measurements) if check.left_out == "one cell"
    )
    assert max(errors) == pytest.approx(one_cell.largest_error)
    assert leave_one_out(measurements[:1]) == []
