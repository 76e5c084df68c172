from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.estimate.basis import EXTRAPOLATED, INTERPOLATED, MEASURED_STEPS
from study.estimate.estimate import Estimate, Estimator, estimate_table
from study.estimate.time_table import read_estimates, to_markdown
from study.files import to_csv
from study.grid import Cell, Grid
from study.measure.measurement import Measurement, read_measurements
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import write_table
from study.workload import workload
from tests.study.conftest import GUIDE, MakeGrid, make_summary, write_run
from trainer.problems import ConfigError

STEP_S = 131_072 / 600_000  # 8x H200 at 75K tokens/s each


def measure(grid: Grid) -> list[Measurement]:
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_rows(grid), path)
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
        " 2.4 min to 2.6 min ",
    ]


def test_a_different_number_of_steps_scales_the_steps_but_not_the_start_up(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid({**GUIDE, "estimate": {"steps": 1000}})
    write_run(grid[0], step_s=STEP_S, startup_s=40.0)
    (row,) = estimates(grid)
    # the first step is part of the start-up; the end of the run takes seconds at most
    assert 40 + 999 * STEP_S < row.seconds < 42 + 999 * STEP_S
    assert row.method == "start-up + steps x mean step"


def test_the_mean_predicts_the_length_and_its_error_the_interval(make_grid: MakeGrid) -> None:
    """Not the median, and not every step at its 10th or 90th percentile."""
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1}],
                      "run": {"steps": 1001}, "estimate": {"steps": 1000}})  # fmt: skip
    # 100 intervals in steady state: 20 of 0.08 s, 60 of 0.1 s, 20 of 0.2 s
    write_run(grid[0], step_s=[0.08, 0.08, *[0.1] * 6, 0.2, 0.2], startup_s=4.0)
    (row,) = estimates(grid)
    # their mean, 0.116 s, is what all steps together take; the median is 0.1 s
    assert row.seconds == pytest.approx(4 + 999 * 0.116, rel=0.02)
    # Standard error of 100 intervals with standard deviation 0.043 s: 3.7%. Between runs: 2%, and
    # as much for the one that was measured.
    width = 1.2816 * np.hypot(0.037, 0.02 * 2**0.5)
    assert row.seconds_high == pytest.approx(4 + 999 * 0.116 * np.exp(width), rel=0.01)
    assert row.seconds_low == pytest.approx(4 + 999 * 0.116 * np.exp(-width), rel=0.01)


def test_the_spread_of_repeated_runs_is_in_the_interval(make_grid: MakeGrid) -> None:
    """Also of a configuration that was run once, on the cluster of those that were repeated."""
    grid = make_grid(
        {"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3, 4]},
                  {"cluster": "here", "model": "wide", "gpus": 1}],
         "estimate": {"steps": 100}}
    )  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.1, 0.1, 0.1, 0.3), strict=True):
        write_run(cell, step_s=step_s)
    quiet = [_width(row) for row in estimates(grid)]
    for cell, step_s in zip(grid, (0.09, 0.1, 0.11, 0.12, 0.3), strict=True):
        write_run(cell, step_s=step_s)
    restless = [_width(row) for row in estimates(grid)]
    # the logarithms of 0.09 to 0.12 have a standard deviation of 0.124; 0.108 with the prior's pair
    assert restless[0] == pytest.approx(np.exp(2 * 1.2816 * 0.108 * 1.25**0.5), rel=0.02)
    assert restless[1] == pytest.approx(np.exp(2 * 1.2816 * 0.108 * 2**0.5), rel=0.02)
    assert quiet[0] < quiet[1] < 1.06


def test_seeds_are_pooled(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2, 3]}],
         "estimate": {"steps": 100}}
    )  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.2, 0.9), strict=True):
        write_run(cell, step_s=step_s, startup_s=10 * step_s)
    (row,) = estimates(grid)
    assert row.seconds == pytest.approx(2 + 99 * 0.2, abs=0.5)
    assert row.seconds_low <= 1 + 99 * 0.1 + 0.5
    assert row.seconds_high >= 9 + 99 * 0.9 - 0.5


def test_a_speed_that_another_cell_measured_says_which(make_grid: MakeGrid) -> None:
    """Clipping at 0.5 instead of 1 cannot change the speed, and muon can."""
    grid = make_grid({
        "variants": {"tight": {"optim": {"clip": 0.5}}, "muon": {"optim": {"name": "muon"}}},
        "grid": [{"cluster": "here", "model": "tiny", "gpus": 1,
                  "variant": ["base", "tight", "muon"], "seed": [1, 2]}],
    })  # fmt: skip
    write_run(grid.by_name["here/tiny/gpus-1/base/seed-2"])
    base, tight, muon = estimates(grid)
    assert base.basis == tight.basis == "Verified"
    assert (base.by, tight.by, muon.by) == ("", "here/tiny/gpus-1/base/seed-2", "")
    assert muon.basis != "Verified"
    assert "| Verified by here/tiny/gpus-1/base/seed-2" in to_markdown([tight])


def test_runs_that_save_and_evaluate_otherwise_give_the_speed_but_not_the_time(
    make_grid: MakeGrid,
) -> None:
    """40 steps of equal speed; with 20 evaluations and saves, a run takes 10 s more."""
    grid = make_grid(
        {
            "run": {"checkpoint": None},
            "variants": {
                "heavy": {
                    "checkpoint": {"eval": {"every": 2}},
                    "eval": {"validation": {"max_sequences": 512}},
                },
                "again": {"optim": {"lr": 1e-2}},
            },
            "grid": [{"cluster": "here", "model": "tiny", "gpus": 1,
                      "variant": ["base", "heavy", "again"]}],
            "estimate": {"steps": 40},
        }
    )  # fmt: skip
    base, heavy, again = grid
    write_run(base, step_s=0.1, startup_s=4.0)
    alone = estimates(grid)
    assert [row.seconds for row in alone[::2]] == pytest.approx([4 + 39 * 0.1] * 2)
    assert alone[1].method == "start-up + steps x mean step"
    assert (alone[1].seconds_low or 0) > (alone[0].seconds or 0)  # its pauses are predicted
    attempt = {**make_summary(heavy, 4.0, 17.9)["attempts"][0]}
    write_run(heavy, step_s=[0.05, 0.15, 0.1, 0.1], startup_s=4.0, attempts=[attempt])
    both = estimates(grid)
    assert [row.seconds for row in both] == pytest.approx([7.9, 17.9, 7.9])
    assert {row.method for row in both} == {"wall-clock time of the run"}
    assert [row.doubt != "" for row in both] == [False, True, False]
    write_run(again, step_s=0.1, startup_s=6.0)
    assert [row.seconds for row in estimates(grid)] == pytest.approx([8.9, 17.9, 8.9])


def test_runs_of_the_length_that_a_row_is_about_count_alone(make_grid: MakeGrid) -> None:
    """Not the time that a longer run, with another start-up and speed, would take for it."""
    grid = make_grid(
        {
            "models": {"tiny": {"dim": 64, "n_layers": 2, "n_heads": 2}},
            "clusters": {"here": {"device": "cpu", "gpu_name": "CPU core"}},
            "run": {
                "steps": 40,
                "logging": {"freq": 10},
                "data": {"sources": {"text": 1.0}},
                "checkpoint": None,
            },
            "variants": {"long": {"steps": 80}},
            "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "long"]}],
            "estimate": {"steps": 40},
        }
    )
    short, long = grid
    write_run(long, step_s=0.2, startup_s=6.0)
    assert [row.seconds for row in estimates(grid)] == pytest.approx([6 + 39 * 0.2] * 2, abs=0.5)
    write_run(short, step_s=0.1, startup_s=4.0)
    both = estimates(grid)
    assert [row.seconds for row in both] == pytest.approx([4 + 39 * 0.1] * 2)
    assert {row.method for row in both} == {"wall-clock time of the run"}


LADDER: dict[str, Any] = {
    "models": {f"m{dim}": {"dim": dim, "n_layers": 2, "n_heads": 2} for dim in (64, 96, 128, 512)},
    "grid": [
        {"cluster": "here", "model": ["m64", "m96", "m128"], "gpus": 1},
        {"cluster": "here", "model": "m512", "gpus": 1, "measure": False},
    ],
}


def test_it_interpolates_between_measured_cells_and_explains_extrapolation(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid(LADDER)
    write_run(grid[0], step_s=0.1)
    write_run(grid[2], step_s=0.2)
    _, between, _, beyond = estimates(grid)
    assert between.basis == INTERPOLATED
    assert between.step_s is not None
    assert 0.1 < between.step_s < 0.2
    assert beyond.basis == EXTRAPOLATED
    measured = f"{grid[0].params:,} to {grid[2].params:,}"
    assert beyond.method == (
        f"from 2 measured configurations; {grid[3].params:,} parameters, measured {measured}"
    )
    assert _width(beyond) > _width(between)


def _width(row: Estimate) -> float:
    assert row.step_s_high is not None
    assert row.step_s_low is not None
    return row.step_s_high / row.step_s_low


def test_a_setting_that_was_not_measured_is_named(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {
            "variants": {"fast": {"distributed": {"compile": True}}},
            "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["base", "fast"]}],
        }
    )
    write_run(grid[0])
    row = estimates(grid)[1]
    assert row.basis == EXTRAPOLATED
    assert "compile True was not measured" in row.method


def test_the_time_includes_startup_and_all_steps(make_grid: MakeGrid) -> None:
    """An estimated run with only its start-up, 500 steps, one save and one evaluation."""
    grid = make_grid(LADDER)
    write_run(grid[0], step_s=1.0, startup_s=31.0)
    write_run(grid[2], step_s=1.0, startup_s=31.0)
    row = estimates(grid)[1]
    assert row.step_s == pytest.approx(1.0, rel=0.05)
    assert row.startup_s == pytest.approx(31.0, rel=0.05)
    assert row.seconds == pytest.approx(30 + 500, rel=0.06)


def test_a_run_that_has_not_ended_is_its_own_best_evidence(make_grid: MakeGrid) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, step_s=0.1)
    write_run(grid[0], step_s=0.3, status="preempted", outcome=None)
    row = estimates(grid)[0]
    assert (row.basis, row.method) == (INTERPOLATED, "from the steps of its own runs so far")
    assert row.step_s == pytest.approx(0.3)
    assert row.seconds == pytest.approx(4 + 499 * 0.3, rel=0.05)


def test_without_measurement_and_data_sheet_there_is_no_estimate(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    here, fast = estimates(grid)
    assert (here.seconds, here.seconds_low, here.seconds_high, here.gpu_hours) == (None,) * 4
    assert here.method == "no measurement on here yet, and its peak_tflops is not known"
    # the H200's data sheet says little, and the row says so
    assert fast.method == "from the data sheet alone, nothing was measured there"
    assert _width(fast) > 5


def of_the_guide(cell: Cell, **more: Any) -> Measurement:
    """Return the guide's run of 500 steps in 150 s."""
    return Measurement(
        cell=cell,
        source="the guide",
        completed=True,
        uninterrupted=True,
        step_s=(STEP_S, STEP_S, STEP_S),
        startup_s=None,
        wall_s=150.0,
        peak_memory_gib=None,
        **more,
    )


def test_evidence_verifies_in_the_name_of_its_source(make_grid: MakeGrid) -> None:
    """The guide: 75K tokens/s for each of 8 H200; 500 steps in 2.5 min."""
    grid = make_grid(GUIDE)
    guides = of_the_guide(grid[0])
    (row,) = estimate_table(grid, [guides])
    assert (row.basis, row.seconds) == ("Verified", 150.0)
    assert (row.method, row.by) == ("wall-clock time of the run", "the guide")
    assert "Verified by the guide" in to_markdown([row])
    # once the study has its own measurement, that one counts
    write_run(grid[0], step_s=0.1, startup_s=20.0)
    (row,) = estimate_table(grid, [guides, *measure(grid)])
    assert row.seconds == pytest.approx(20 + 499 * 0.1)
    assert row.method == "wall-clock time of the run"


def test_what_a_whole_run_took_beyond_its_steps_is_the_start_up_of_others(
    make_grid: MakeGrid,
) -> None:
    """The guide's 150 s are 500 steps of 109 s and 41 s of start-up, of which its end is a part; so
    larger models do not end earlier."""
    models = {name: {"dim": 64 * n, "n_layers": n, "n_heads": n} for name, n in SIZES.items()}
    cells = {"cluster": "fast", "model": list(SIZES), "gpus": 8}
    grid = make_grid({**GUIDE, "models": models, "grid": [cells]})
    guides = of_the_guide(grid[0], steady_steps=500)
    rows = estimate_table(grid, [guides])
    assert [row.basis.split()[0] for row in rows] == ["Verified", "Estimated", "Estimated"]
    times = [row.seconds or 0 for row in rows]
    assert sorted(times) == times
    assert [row.startup_s for row in rows[1:]] == pytest.approx([39.0] * 2, abs=2)
    # A time that the steps alone exceed is no start-up of 0 s.
    wrong = estimate_table(grid, [replace(guides, wall_s=90.0)])
    alone = estimate_table(grid, [replace(guides, wall_s=None)])
    assert wrong[1] == alone[1]


SIZES = {"small": 8, "larger": 10, "largest": 12}


def test_the_start_up_of_a_whole_run_is_what_its_steps_and_saves_leave(make_grid: MakeGrid) -> None:
    """Of 216 s, 40 steps take 160 s, 40 saves 13 s at 1 GB/s, and the end 2 s: 41 s are left. Of
    three such runs, the median counts."""
    run = {"steps": 40, "checkpoint": {"dump": {"every": 1}}, "eval": None}
    (cell,) = make_grid({**GUIDE, "run": {**GUIDE["run"], **run}})
    whole = Measurement(
        cell=cell,
        source="the guide",
        completed=True,
        uninterrupted=True,
        step_s=(4.0, 4.0, 4.0),
        startup_s=None,
        wall_s=216.0,
        peak_memory_gib=None,
    )
    others = [replace(whole, wall_s=wall_s) for wall_s in (206.0, 246.0)]
    for runs in ([whole], [whole, *others]):
        startup = Estimator(runs).model(cell).startup(workload(cell)).middle
        assert startup == pytest.approx(216 - 160 - 40 * 12 * cell.params / 1e9 - 2, rel=0.05)


def test_the_parts_of_a_time_by_hand(make_grid: MakeGrid) -> None:
    """A start-up that was recorded includes the first step; one that is predicted does not."""
    grid = make_grid(GUIDE)
    item = of_the_guide(grid[0], steady_steps=499)
    started = replace(item, startup_s=40.0)
    for known in (started, item):
        estimator = Estimator([known])
        row = estimator.estimate(grid[0], 1000)
        model = estimator.model(grid[0])
        predicted = model.startup(workload(grid[0])).middle + STEP_S
        assert row.startup_s == pytest.approx(40.0 if known is started else predicted, rel=1e-9)
        rest = model.rest(grid[0], 1000, STEP_S).middle
        assert row.seconds == pytest.approx(row.startup_s + 999 * STEP_S + rest, rel=1e-9)
    row = Estimator([]).estimate(grid[0], 1000)
    model = Estimator([]).model(grid[0])
    step_s, startup = model.step(workload(grid[0])).middle, model.startup(workload(grid[0]))
    assert row.startup_s == pytest.approx(startup.middle + step_s, rel=1e-9)
    rest = model.rest(grid[0], 1000, step_s).middle
    assert row.seconds == pytest.approx(startup.middle + 1000 * step_s + rest, rel=1e-9)


def test_what_several_measurements_know_together(make_grid: MakeGrid) -> None:
    """One start-up is enough, and one whole run; of two logs, neither is there."""
    grid = make_grid(GUIDE)
    log = of_the_guide(grid[0], steps_only=True, steady_steps=100)
    log = replace(log, wall_s=None, uninterrupted=False)
    started = replace(log, startup_s=40.0, steps_only=False)

    def told(*known: Measurement) -> tuple[str, str]:
        row = Estimator(known).estimate(grid[0], 500)
        return row.basis, row.method

    assert told(log, log) == (MEASURED_STEPS, "predicted start-up + steps x mean step")
    assert told(log, started) == ("Verified", "start-up + steps x mean step")
    # Ten times as many steps as the most that were measured are not far.
    both = Estimator([log, replace(log, steady_steps=300)])
    assert both.estimate(grid[0], 3000).measured_steps is None
    assert both.estimate(grid[0], 3001).measured_steps == 300


@pytest.mark.parametrize("wall_s", [60.0, 0.5])
def test_a_whole_run_that_contradicts_its_steps_has_their_spread(
    make_grid: MakeGrid, wall_s: float
) -> None:
    """499 steps of 0.218 s take 109 s: nothing else was done, and no run ends before it began."""
    (cell,) = make_grid(GUIDE)
    row = Estimator([replace(of_the_guide(cell), wall_s=wall_s)]).estimate(cell, 500)
    steps_s, width = 499 * STEP_S, np.exp(1.2815516 * 0.02 * 2**0.5)
    assert row.seconds == wall_s
    assert row.seconds_high == pytest.approx(wall_s + steps_s * (width - 1))
    assert row.seconds_low == pytest.approx(max(0.0, wall_s - steps_s * (1 - 1 / width)))


def test_horizons_cost_and_energy(make_grid: MakeGrid) -> None:
    grid = make_grid(
        {
            **GUIDE,
            "clusters": {"fast": {"price_per_gpu_hour": 3.0, "power_w": 700.0}},
            "estimate": {"horizons": ["1B tokens", "chinchilla"]},
        }
    )
    write_run(grid[0], step_s=STEP_S, startup_s=40.0)
    rows = estimates(grid)
    assert [row.horizon for row in rows] == ["500 steps", "1B tokens", "chinchilla"]
    # 10^9 / 131,072 = 7629.4; 20 x 27,535,872 / 131,072 = 4201.6
    assert [row.steps for row in rows] == [500, 7630, 4202]
    assert rows[1].gpu_hours == pytest.approx((40 + 7629 * STEP_S) * 8 / 3600, rel=0.01)
    assert rows[1].cost == pytest.approx(3.0 * rows[1].gpu_hours)
    assert rows[1].energy_kwh == pytest.approx(0.7 * rows[1].gpu_hours)
    text = to_markdown(rows)
    assert "| 1B Tokens Time" in text
    assert f"{rows[1].cost:.2f} USD" in text


def test_a_row_measured_with_other_settings_is_no_evidence(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0])
    measure(grid)
    changed = make_grid({"run": {"optim": {"lr": 0.5}}})
    assert read_measurements(f"{grid.study.folder}/throughput.csv", changed) == []


def test_the_table_is_read_back_as_written(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    rows = estimates(grid)
    path = tmp_path / "time_estimates.csv"
    path.write_text(to_csv(rows, Estimate))
    assert (
        path.read_text()
        .splitlines()[0]
        .startswith(
            "cluster,model,params,gpus,tokens_per_step,steps,seconds,seconds_low,seconds_high,"
            "gpu_hours,basis,method"
        )
    )
    again = read_estimates(path)
    assert again[0].method == rows[0].method
    assert again[0].seconds == pytest.approx(rows[0].seconds, rel=1e-5)
    assert to_csv(again, Estimate) == path.read_text()


def test_malformed_tables_are_rejected(make_grid: MakeGrid, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_measurements(path, make_grid())
    path.write_text("cluster,model\nhere,tiny\n")
    with pytest.raises(ConfigError, match="not a throughput table: no column 'gpu_name'"):
        read_measurements(path, make_grid())
    with pytest.raises(ConfigError, match="not a time-estimate table"):
        read_estimates(path)


@settings(max_examples=40)
@given(
    known=st.dictionaries(st.integers(0, 7), st.floats(1e-3, 1e3), min_size=1),
    steps=st.integers(1, 10_000),
)
def test_intervals_contain_the_estimate(known: dict[int, float], steps: int) -> None:
    grid = _ladder()
    measurements = [
        Measurement(
            cell=grid[index],
            source="",
            completed=index % 2 == 0,
            uninterrupted=False,
            step_s=(step_s * 0.9, step_s, step_s * 1.3),
            startup_s=5.0,
            wall_s=None,
            peak_memory_gib=None,
        )
        for index, step_s in known.items()
    ]
    estimator = Estimator(measurements)
    for cell in grid:
        row = estimator.estimate(cell, steps)
        assert row.seconds is not None
        assert row.seconds_low is not None
        assert row.seconds_high is not None
        assert 0 <= row.seconds_low <= row.seconds <= row.seconds_high


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


def test_the_memory_of_a_measured_configuration_is_its_own(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]}]})
    write_run(grid[0], peak_memory_gib=5.0)
    own, other = estimates(grid)
    assert (own.memory_gib, own.memory_gib_high) == (5.0, 5.0)
    assert other.memory_gib_high > other.memory_gib


def test_a_measurement_informs_on_the_cells_of_its_cluster_alone(make_grid: MakeGrid) -> None:
    """The next one is best made where nothing was measured, although the clusters are alike."""
    there = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4}
    grid = make_grid({"clusters": {"there": there},
                      "grid": [{"cluster": ["here", "there"], "model": ["tiny", "wide"],
                                "gpus": [1, 2]}]})  # fmt: skip
    measured = [cell for cell in grid if cell.cluster == "here" and cell.gpus == 1]
    for cell in measured:
        write_run(cell)
    best = Estimator(measure(grid)).most_informative([c for c in grid if c not in measured])
    assert best is not None
    assert best.cluster == "there"
