import json

from study.estimate.accuracy import Accuracy
from study.estimate.scored import ScoredPrediction
from study.measure.run_files import each_run
from study.measure.throughput import throughput_rows
from study.show.report_data import chart_data, prediction_points
from tests.study.conftest import MakeGrid, write_run


def test_a_spike_and_a_gap_are_in_the_curve_that_is_drawn(make_grid: MakeGrid) -> None:
    grid = make_grid({"run": {"steps": 5000, "logging": {"freq": 1}}})
    cell = grid[0]
    losses = {2345: 99.0, 4321: None}
    write_run(cell, loss=lambda step: losses.get(step, 3.0 + 1 / step))
    data = chart_data(grid, each_run(grid), [], [])
    json.dumps(data, allow_nan=False)
    (curve,) = data["curves"]
    drawn = dict(zip(curve["step"], curve["loss"], strict=True))
    assert drawn[2345] == 99.0
    assert drawn[4321] is None
    assert drawn[1] == 4.0 and drawn[5000] == 3.0
    assert len(drawn) < 3000
    assert data["cells"][0]["tokens"] == cell.tokens_per_step


def test_both_kinds_of_predictions_are_points() -> None:
    left_out = ScoredPrediction("a", 2.0, 1.0, 4.0, 8.0, -0.75, False)
    when = "2026-01-01T00:00:00+00:00"
    before = ScoredPrediction("a", 9.0, 7.0, 11.0, 8.0, 0.125, True, when, "Estimated")
    point = {"label": "a", "measured": 8.0}
    assert prediction_points(Accuracy([], [left_out], [before])) == [
        {**point, "before": True, "inside": True, "predicted": [7.0, 9.0, 11.0]},
        {**point, "before": False, "inside": False, "predicted": [1.0, 2.0, 4.0]},
    ]


def test_trainer_and_variant_of_a_cell_are_apart(make_grid: MakeGrid) -> None:
    other = {
        "launcher": "none",
        "script": "zsh",
        "log": {"format": "json", "fields": {"step": "n"}},
    }
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "strong"]}
    values = {"variants": {"strong": {"steps": 50}}, "trainers": {"zsh": other}}
    mixed = make_grid({**values, "grid": [{**block, "trainer": ["ours", "zsh"]}]})
    cells = chart_data(mixed, [], [], [])["cells"]
    assert [(cell["trainer"], cell["variant"]) for cell in cells] == [
        ("ours", "base"),
        ("ours", "strong"),
        ("zsh", "base"),
        ("zsh", "strong"),
    ]
    ours = chart_data(make_grid({**values, "grid": [block]}), [], [], [])["cells"]
    assert [list(cell) for cell in ours] == [
        ["cluster", "model", "gpus", "variant", "seed", "params", "tokens", "flops"]
    ] * 2
    assert [cell["variant"] for cell in ours] == ["base", "strong"]


def test_a_run_that_diverged_is_told_from_its_repeats(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2]}]})
    write_run(grid[0], outcome="diverged")
    write_run(grid[1])
    rows = list(zip(grid, throughput_rows(grid), strict=True))
    speeds = chart_data(grid, [], rows, [])["speeds"]
    assert [speed.get("diverged", False) for speed in speeds] == [True, False]
