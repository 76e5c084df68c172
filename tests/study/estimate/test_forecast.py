"""Predictions before a launch, and their scores afterwards."""

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from study.estimate.backtest import (
    readable_backtest,
    record_predictions,
    score_predictions,
)
from study.estimate.basis import VERIFIED
from study.estimate.budget import check_budget
from study.estimate.forecast import Forecast
from study.estimate.scored import ScoredPrediction
from study.jobs.launch import slurm_resources
from study.jobs.verdict import Shortage
from study.measure.evidence import earlier_measurements, known_measurements
from tests.study.conftest import CONTINUED, MakeGrid, measured, write_run
from trainer.problems import ConfigError

PAIR = {"grid": [{"cluster": "fast", "model": "tiny", "gpus": [1, 2]}]}


def test_a_prediction_is_scored_once_its_run_is_measured(make_grid: MakeGrid) -> None:
    grid = make_grid(PAIR)
    write_run(grid[0], step_s=0.1)
    forecast = Forecast(measured(grid))
    record_predictions(list(grid), forecast)
    # the first has run already: what it measured is no prediction
    assert score_predictions(grid.study, known_measurements(grid)) == []
    predicted = forecast.estimate(grid[1])
    write_run(grid[1], step_s=0.2)
    (outcome,) = score_predictions(grid.study, known_measurements(measured(grid)))
    assert outcome.cell == grid[1].name
    assert outcome.basis == predicted.basis
    assert datetime.fromisoformat(outcome.predicted or "") <= datetime.now(UTC)
    assert outcome.step_ms == pytest.approx(1e3 * (predicted.step_s or 0))
    assert outcome.step_ms_measured == pytest.approx(200.0)
    assert outcome.error == pytest.approx((predicted.step_s or 0) / 0.2 - 1)
    assert outcome.inside == (outcome.step_ms_low <= 200.0 <= outcome.step_ms_high)
    # others' measurements of the same cell do not score it
    known = known_measurements(measured(grid))
    evidence = [replace(item, source="the guide", mean_s=9.0) for item in known]
    assert score_predictions(grid.study, [*known, *evidence]) == [outcome]


def test_until_a_run_is_made_again_its_speed_is_known(make_grid: MakeGrid) -> None:
    """40 steps of 0.1 s after 8 s of start-up; an edit asks for more steps, then for another batch,
    and then the tables are made anew."""
    grid = make_grid(PAIR)
    write_run(grid[0], step_s=0.1, startup_s=8.0)
    measured(grid)
    file = Path(grid.study.folder, "study.yaml")
    file.write_text(grid.study.to_yaml())
    longer = make_grid({**PAIR, "run": {"steps": 400}})
    found = Forecast(longer).estimate(longer[0])
    assert found.step_s == pytest.approx(0.1)
    assert found.seconds == pytest.approx(8 + 399 * 0.1, rel=0.05)
    assert (found.basis, found.by) == (VERIFIED, "this study before its edit")
    # It is in no table, and not counted twice where it is up to date.
    assert known_measurements(longer) == []
    again = make_grid({**PAIR, "estimate": {"steps": 7}})
    assert earlier_measurements(again) == []
    other = make_grid({**PAIR, "run": {"data": {"seq_len": 16}}})
    assert Forecast(other).estimate(other[0]).basis != VERIFIED
    for text in ("a study of another version", longer.study.to_yaml()):
        file.write_text(text)
        assert Forecast(longer).estimate(longer[0]).basis != VERIFIED


def test_a_prediction_is_scored_by_the_mean_of_the_steps(make_grid: MakeGrid) -> None:
    """29 steps of 0.1 s and 10 of 0.5 s, of which the median is 0.1 s."""
    grid = make_grid(PAIR)
    record_predictions([grid[1]], Forecast(grid))
    write_run(grid[1], step_s=[0.1, 0.1, 0.1, 0.5])
    (outcome,) = score_predictions(grid.study, known_measurements(measured(grid)))
    assert outcome.step_ms_measured == pytest.approx(7900 / 39)


def test_scored_predictions_are_shown_in_percent() -> None:
    first = ScoredPrediction.of("a", 0.1, (0.09, 0.11, 0.12), "2026-01-01", "Verified")
    second = ScoredPrediction.of("b", 0.123456, (0.05, 0.0617, 0.1))
    third = ScoredPrediction.of("c", 12.3456, (10.0, 14.0, 15.0))
    headings, rows = readable_backtest([first, second, third])
    assert len(headings) == 7
    assert rows == [
        ["a", "2026-01-01", "110", "90 to 120", "100", "+10.0", "inside"],
        ["b", "", "61.7", "50 to 100", "123.5", "-50.0", "outside"],
        ["c", "", "14,000", "10,000 to 15,000", "12,346", "+13.4", "inside"],
    ]


def test_a_run_that_continues_another_takes_its_own_steps(make_grid: MakeGrid) -> None:
    """60 of its 300 steps, at 1 s each; the trunk's 240 were another run."""
    grid = make_grid(CONTINUED)
    write_run(grid[0], step_s=1.0, startup_s=5.0)
    trunk, own = map(Forecast(measured(grid)).estimate, grid)
    assert (trunk.steps, own.steps) == (240, 60)
    assert (trunk.seconds, own.seconds) == (pytest.approx(244, abs=3), pytest.approx(64, abs=3))


def test_without_an_estimate_there_is_no_prediction(make_grid: MakeGrid) -> None:
    """Nothing is known of `here`."""
    grid = make_grid()
    record_predictions(list(grid), Forecast(grid))
    assert not Path(grid.study.folder, "predictions.jsonl").exists()
    assert score_predictions(grid.study, []) == []


def test_the_last_prediction_before_the_run_counts(make_grid: MakeGrid) -> None:
    grid = make_grid(PAIR)
    record_predictions([grid[1]], Forecast(grid))
    write_run(grid[0], step_s=0.1)
    record_predictions([grid[1]], Forecast(measured(grid)))
    write_run(grid[1], step_s=0.1)
    (outcome,) = score_predictions(grid.study, known_measurements(measured(grid)))
    lines = Path(grid.study.folder, "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert outcome.step_ms == pytest.approx(1e3 * json.loads(lines[1])["step_s"])


def test_an_incomplete_prediction_is_skipped_and_a_malformed_one_reported(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid(PAIR)
    record_predictions([grid[1]], Forecast(grid))
    path = Path(grid.study.folder, "predictions.jsonl")
    whole = path.read_text()
    write_run(grid[1])
    known = known_measurements(measured(grid))
    for kept, count in (("", 0), (whole, 1)):
        path.write_text(kept + '{"cell": "fa')
        assert len(score_predictions(grid.study, known)) == count
    lines = [b'{"cell": "fast"}', b'{"a":' * 5000, b"\xff", b"7"]
    for text in ("1" + "0" * 400, "1e999", "1e308", "-1", "0", '"fast"', "null"):  # 1e308 s in ms
        changed = re.sub(r'"step_s_high": [^,}]+', f'"step_s_high": {text}', whole.strip())
        assert changed != whole.strip()
        lines.append(changed.encode())
    for line in lines:
        path.write_bytes(whole.encode() + line + b"\n")
        with pytest.raises(ConfigError, match="line 2: not a prediction"):
            score_predictions(grid.study, [])


def test_a_prediction_after_one_that_was_cut_off_is_whole(make_grid: MakeGrid) -> None:
    """Both stood in one line, and no time table could be made any more."""
    grid = make_grid(PAIR)
    write_run(grid[0], step_s=0.1)
    path = Path(grid.study.folder, "predictions.jsonl")
    forecast = Forecast(measured(grid))
    record_predictions([grid[1]], forecast)
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    record_predictions([grid[1]], forecast)
    assert [json.loads(line)["cell"] for line in path.read_text().splitlines()] == [
        grid[1].name,
        grid[1].name,
    ]


def test_a_run_with_a_broken_summary_has_begun(make_grid: MakeGrid) -> None:
    """Snakemake ended with a traceback before its first job."""
    grid = make_grid(PAIR)
    write_run(grid[0], step_s=0.1)
    forecast = Forecast(measured(grid))
    Path(grid[1].folder).mkdir(parents=True)
    Path(grid[1].folder, "run.json").write_text('{"status": "run')
    record_predictions([grid[1]], forecast)
    assert not Path(grid.study.folder, "predictions.jsonl").exists()


def test_a_launch_above_its_budget_is_stopped_unless_confirmed(make_grid: MakeGrid) -> None:
    """40 steps of 90 s on two GPUs: about two GPU-hours, at 3 an hour about 6."""
    changes = {**PAIR, "clusters": {"fast": {"price_per_gpu_hour": 3.0}}}

    def problem(
        budget: dict[str, float], confirm: str | None = None, step_s: float = 90.0
    ) -> str | None:
        grid = make_grid({**changes, "budget": budget, "confirm": confirm})
        write_run(grid[0], step_s=step_s)
        return check_budget(grid.study, [grid[1]], Forecast(measured(grid)))

    assert problem({}) is None
    assert problem({"gpu_hours": 3}) is None
    over = problem({"gpu_hours": 1})
    assert over is not None
    assert "budget.gpu_hours: 1 to train, estimated at" in over
    assert "the limit is 1; to launch them anyway: --config confirm=test" in over
    assert "budget.cost" in (problem({"cost": 4}) or "")
    millions = problem({"gpu_hours": 1_234_567}, step_s=9e8)
    assert "the limit is 1,234,567; to launch" in (millions or "")
    assert problem({"gpu_hours": 1}, confirm="test") is None
    assert problem({"gpu_hours": 1}, confirm="other") is not None
    grid = make_grid(changes)
    hours = Forecast(measured(grid)).estimate(grid[1]).gpu_hours
    assert hours is not None and problem({"gpu_hours": hours}) is None


AUTO = {"fast": {"slurm": {"runtime_min": "auto", "mem_gib": "auto", "max_runtime_min": 70}}}


def test_the_time_limit_is_the_upper_end_and_a_margin(make_grid: MakeGrid) -> None:
    grid = make_grid({**PAIR, "clusters": AUTO})
    write_run(grid[0], step_s=30.0, startup_s=40.0)
    forecast = Forecast(measured(grid))
    cell = grid[1]
    high = forecast.estimate(cell).seconds_high
    assert high is not None
    needs = forecast.needs(cell)
    assert needs.runtime_min is not None
    assert high * 1.1 / 60 + 5 <= needs.runtime_min < high * 1.1 / 60 + 6
    late = make_grid(
        {**PAIR, "clusters": {"fast": {"slurm": {**AUTO["fast"]["slurm"], "warn_s": 900}}}}
    )
    assert Forecast(measured(late)).needs(late[1]).runtime_min == needs.runtime_min + 14
    asked = [
        slurm_resources(cell.cluster_config, 2, Shortage(time=ended), needs)["runtime"]
        for ended in (0, 1, 2)
    ]
    assert asked == [needs.runtime_min, 2 * needs.runtime_min, 70]
    # two ranks with 6 GiB each and 2 for the node, a quarter more; the model is nothing
    assert slurm_resources(cell.cluster_config, 2, needs=needs)["mem_mb"] == 18 * 1024


def test_without_an_estimate_the_partitions_limit_is_requested(make_grid: MakeGrid) -> None:
    unknown = {"fast": {**AUTO["fast"], "peak_tflops": None}}
    grid = make_grid({**PAIR, "clusters": unknown})
    needs = Forecast(grid).needs(grid[1])
    assert needs.runtime_min is None
    assert slurm_resources(grid[1].cluster_config, 2, needs=needs)["runtime"] == 70


def test_a_fixed_request_is_used_unchanged(make_grid: MakeGrid) -> None:
    grid = make_grid(PAIR)
    write_run(grid[0], step_s=900.0)
    needs = Forecast(measured(grid)).needs(grid[1])
    assert slurm_resources(grid[1].cluster_config, 2, needs=needs)["runtime"] == 30


def test_the_memory_of_a_node_by_hand(make_grid: MakeGrid) -> None:
    """Processes of 3 GiB on a CPU; on GPUs 6 GiB each, and two copies of a checkpoint of 12 bytes a
    parameter, on one node of 8 or on two. With 2 GiB for the node, and a quarter more."""
    large = {"large": {"dim": 4096, "n_layers": 32, "n_heads": 32}}
    grid = make_grid(
        {
            "models": large,
            "grid": [
                {"cluster": "here", "model": "tiny", "gpus": 2},
                {"cluster": "fast", "model": "large", "gpus": [8, 16]},
                {"cluster": "here", "model": "tiny", "gpus": 4},
            ],
        }
    )
    # Not measured: a process is expected to take 0.46 GiB, and at the upper end 1.02.
    assert Forecast(grid).needs(grid[3]).mem_gib == math.ceil(1.25 * (4 * 1.02 + 2))
    write_run(grid[0], peak_memory_gib=3.0)
    forecast = Forecast(measured(grid))
    assert forecast.needs(grid[0]).mem_gib == 10
    # 32 x (4 x 4096^2 + 3 x 4096 x 11008) parameters and some are 6.48e9, a checkpoint 72.4 GiB
    assert grid[1].params == pytest.approx(6.48e9, rel=1e-3)
    assert [forecast.needs(cell).mem_gib for cell in grid[1:3]] == [244, 244]
