import json

from study.measure.logs import read_runs
from study.show.report_data import chart_data
from tests.study.conftest import MakeGrid, write_run


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
