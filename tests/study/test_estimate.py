import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.estimate import (
    Estimate,
    Measurement,
    estimate_cell,
    estimate_table,
    format_count,
    format_seconds,
    read_estimates,
    read_measurements,
    to_csv,
    to_markdown,
)
from study.grid import Grid
from study.throughput import throughput_table, write_table
from tests.study.conftest import GUIDE, MakeGrid, write_run
from trainer.config import ConfigError
from trainer.flops import flops_per_token

STEP_S = 131_072 / 600_000  # 8x H200 at 75K tokens/s each


def measure(grid: Grid) -> list[Measurement]:
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_table(grid), path)
    return read_measurements(path, grid)


def estimates(grid: Grid) -> list[Estimate]:
    return estimate_table(grid, measure(grid))


def test_the_guides_verified_row(make_grid: MakeGrid) -> None:
    """500 x 131,072 / (8 x 75,000) = 109 s, and 40 s of start-up: the guide's ~2.5 min."""
    grid = make_grid(GUIDE)
    write_run(grid[0], step_s=STEP_S, startup_s=40.0)
    (row,) = estimates(grid)
    assert row.basis == "Verified"
    assert row.method == "wall-clock time of the run"
    # the first step is part of the start-up, so that 499 steps follow it
    assert row.seconds == pytest.approx(40 + 499 * STEP_S)
    assert row.gpu_hours == pytest.approx((40 + 499 * STEP_S) * 8 / 3600)
    assert to_markdown([row]).splitlines()[2].split("|")[1:7] == [
        " small        ",
        " 27.5M    ",
        " 8x H200 ",
        " 131K          ",
        " ~2.5 min         ",
        " 2.5 min to 2.5 min ",
    ]


def test_another_number_of_steps_scales_the_steps_and_not_the_start_up(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid({**GUIDE, "estimate": {"steps": 1000}})
    write_run(grid[0], step_s=STEP_S, startup_s=40.0)
    (row,) = estimates(grid)
    assert row.seconds == pytest.approx(40 + 218.453, abs=1e-3)
    assert row.method == "start-up + steps x step p50"


def test_the_interval_of_a_measured_cell_is_its_spread(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1}],
                      "run": {"steps": 101}, "estimate": {"steps": 100}})  # fmt: skip
    # 100 steps in steady state: 20 of 0.08 s, 60 of 0.1 s, 20 of 0.2 s
    write_run(grid[0], step_s=[0.08, 0.08, *[0.1] * 6, 0.2, 0.2], startup_s=4.0)
    (row,) = estimates(grid)
    assert row.seconds == pytest.approx(4 + 100 * 0.1)
    assert row.seconds_low == pytest.approx(4 + 100 * 0.08)
    assert row.seconds_high == pytest.approx(4 + 100 * 0.2)


def test_seeds_are_pooled(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3]}],
         "estimate": {"steps": 100}}
    )  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.2, 0.9), strict=True):
        write_run(cell, step_s=step_s, startup_s=10 * step_s)
    (row,) = estimates(grid)
    assert row.seconds == pytest.approx(2 + 20)
    assert (row.seconds_low, row.seconds_high) == (pytest.approx(1 + 10), pytest.approx(9 + 90))


TWO = {
    "grid": [
        {"cluster": "here", "model": "tiny", "gpus": 1},
        {"cluster": "here", "model": "wide", "gpus": 1, "measure": False},
    ],
    "estimate": {"steps": 100},
}


def test_one_measurement_is_taken_with_a_factor_of_two_at_least(make_grid: MakeGrid) -> None:
    grid = make_grid(TWO)
    write_run(grid[0], step_s=0.1, startup_s=4.0)
    measured, row = estimates(grid)
    # both models on one GPU, with the same batch: the FLOPs per token are all that differs
    per_token = [flops_per_token(cell.run.model, 258, 64) for cell in grid]
    step_s = 0.1 * per_token[1] / per_token[0]
    assert (measured.basis, row.basis) == ("Verified", "Estimated")
    assert row.step_s == pytest.approx(step_s, rel=1e-5)
    assert row.startup_s == pytest.approx(4.0)
    assert row.seconds == pytest.approx(4 + 100 * step_s, rel=1e-5)
    distance = math.log(grid[1].params / grid[0].params)
    factor = max(2.0, 1.25 ** (1 + distance))
    assert row.seconds_low == pytest.approx(4 + 100 * step_s / factor, rel=1e-5)
    assert row.seconds_high == pytest.approx(4 + 100 * step_s * factor, rel=1e-5)


def test_several_measurements_give_their_median_and_their_range_widened(
    make_grid: MakeGrid,
) -> None:
    shape = {"n_layers": 2, "n_heads": 2}
    grid = make_grid(
        {
            "models": {f"m{dim}": {"dim": dim, **shape} for dim in (64, 68, 72, 512)},
            "grid": [
                {"cluster": "here", "model": ["m64", "m68", "m72", "m512"], "gpus": 1},
                {"cluster": "here", "model": "m64", "gpus": 2, "measure": False},
            ],
            "estimate": {"steps": 100},
        }
    )
    # 1, 2 and 4 TFLOP/s; the fourth, far away, is much faster and takes no part
    for cell, tflops in zip(grid, (1e-3, 2e-3, 4e-3, 1.0), strict=False):
        flops = flops_per_token(cell.run.model, 258, 64) * cell.tokens_per_step
        write_run(cell, step_s=flops / (tflops * 1e12), startup_s=5.0)
    row = estimates(grid)[-1]
    flops_per_gpu = flops_per_token(grid[4].run.model, 258, 64) * 8 * 64
    assert row.step_s == pytest.approx(flops_per_gpu / 2e9, rel=1e-5)
    widen = 1.25 ** (1 + math.log(2))  # the nearest is the same model on half the GPUs
    assert row.seconds_low == pytest.approx(5 + 100 * flops_per_gpu / 4e9 / widen, rel=1e-5)
    assert row.seconds_high == pytest.approx(5 + 100 * flops_per_gpu / 1e9 * widen, rel=1e-5)
    assert row.method == "FLOPs at 0.002 TFLOP/s per GPU, from 3 measured on here"


def test_the_cells_own_variant_counts_where_it_was_measured(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {
            "variants": {"fast": {"distributed": {"compile": True}}},
            "grid": [
                {"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "fast"]},
                {"cluster": "here", "model": "tiny", "gpus": 2, "variant": "fast",
                 "measure": False},
            ],
        }
    )  # fmt: skip
    write_run(grid[0], step_s=0.4)
    write_run(grid[1], step_s=0.1)
    assert estimates(grid)[-1].step_s == pytest.approx(0.1, rel=1e-5)


def test_a_run_that_has_not_ended_is_its_own_best_evidence(make_grid: MakeGrid) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, step_s=0.1)
    write_run(grid[0], step_s=0.3, status="preempted", outcome=None)
    row = estimates(grid)[0]
    assert row.basis == "Estimated"
    assert row.step_s == pytest.approx(0.3, rel=1e-5)
    assert row.seconds_high == pytest.approx(4 + 500 * 0.3 * 1.25, rel=1e-5)


def test_without_a_measurement_on_the_cluster_nothing_is_made_up(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    row = estimates(grid)[1]
    assert (row.seconds, row.seconds_low, row.seconds_high, row.gpu_hours) == (None,) * 4
    assert row.method == "no measurement on fast yet"
    assert "Estimated; no measurement on fast yet" in to_markdown([row])


def test_a_row_measured_with_other_settings_is_no_evidence(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0])
    measure(grid)
    changed = make_grid({"run": {"optim": {"lr": 0.5}}})
    assert read_measurements(f"{grid.study.folder}/throughput.csv", changed) == []


def test_the_table_survives_its_file(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    rows = estimates(grid)
    path = tmp_path / "time_estimates.csv"
    path.write_text(to_csv(rows))
    assert (
        path.read_text()
        .splitlines()[0]
        .startswith(
            "cluster,model,params,gpus,tokens_per_step,steps,seconds,seconds_low,seconds_high,"
            "gpu_hours,basis,method"
        )
    )
    again = read_estimates(path)
    assert again[1] == rows[1]
    assert to_csv(again) == to_csv(rows)


def test_malformed_tables_are_refused(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_measurements(path, make_grid())
    path.write_text("cluster,model\nhere,tiny\n")
    with pytest.raises(ConfigError, match="line 2: not a row of a throughput table"):
        read_measurements(path, make_grid())
    with pytest.raises(ConfigError, match="not a time-estimate table"):
        read_estimates(path)


@given(
    known=st.dictionaries(st.integers(0, 7), st.floats(1e-3, 1e3), min_size=1),
    steps=st.integers(1, 10_000),
)
def test_intervals_hold_the_estimate(known: dict[int, float], steps: int) -> None:
    grid = _ladder()
    measurements = [
        Measurement(
            cell=grid[index],
            completed=index % 2 == 0,
            uninterrupted=False,
            step_s=(step_s * 0.9, step_s, step_s * 1.3),
            tflops_per_gpu=1 / step_s,
            startup_s=5.0,
            wall_s=None,
        )
        for index, step_s in known.items()
    ]
    for cell in grid:
        row = estimate_cell(cell, measurements, steps)
        assert row.seconds is not None
        assert row.seconds_low is not None
        assert row.seconds_high is not None
        assert 5 <= row.seconds_low <= row.seconds <= row.seconds_high


def _ladder() -> Grid:
    from study.config import Study

    models: dict[str, Any] = {
        f"m{n}": {"dim": 64 * n, "n_layers": 2, "n_heads": 2} for n in (1, 2, 4, 8)
    }
    return Grid(
        Study.model_validate(
            {
                "study": "ladder",
                "models": models,
                "clusters": {"here": {"gpu_name": "X", "gpus_per_node": 4}},
                "run": {"steps": 10, "data": {"root_dir": "d", "sources": {"s": 1.0}}},
                "grid": [{"cluster": "here", "model": list(models), "gpus": [1, 4]}],
            }
        )
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.3, "0.3 s"), (42.4, "42 s"), (59.9, "1 min"), (149.2, "2.5 min"), (840, "14 min"),
     (3590, "1 h"), (9000, "2.5 h"), (100_000, "28 h"), (864_000, "10 days")],
)  # fmt: skip
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [(27_535_872, 3, "27.5M"), (131_072, 2, "131K"), (16_384, 2, "16K"), (1_048_576, 2, "1M"),
     (512, 2, "512"), (206_083_072, 3, "206M"), (1_378_865_152, 3, "1.38B")],
)  # fmt: skip
def test_counts_for_people(number: int, digits: int, text: str) -> None:
    assert format_count(number, digits) == text
