"""How much another run of a measured configuration may differ: by hand, and how often it is inside.

Coverage is simulated with planted spreads: of one measured run, or of several, and one more.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from study.estimate.estimate import Estimate, Estimator, estimate_table
from study.estimate.regression import Z80
from study.estimate.spreads import find_spreads
from study.estimate.time_table import to_markdown
from study.grid import Cell, Grid
from study.load import load_study_file
from study.measure.measurement import Measurement, read_measurements, step_mean
from study.measure.throughput import throughput_rows
from study.measure.throughput_table import to_frame, write_table
from study.measure.throughput_table import to_markdown as throughput_markdown
from tests.study.conftest import MakeGrid, write_run

COMPILED = next(
    cell
    for cell in Grid(load_study_file("config/studies/h200.yaml"))
    if (cell.model, cell.named_variant) == ("small", "compile")
)


def measured(
    startup_s: float = 26.4, step_s: float = 0.011, cell: Cell = COMPILED, end_s: float = 1.0
) -> Measurement:
    """Return a whole run, by default like the published one on an H200, with 50 equal intervals."""
    return Measurement(
        cell=cell,
        source="",
        completed=True,
        uninterrupted=True,
        step_s=(step_s, step_s, step_s),
        startup_s=startup_s,
        wall_s=startup_s + (cell.run.steps - 1) * step_s + end_s,
        peak_memory_gib=3.4,
        mean_s=step_s,
        mean_error_s=0.0,
        steady_steps=cell.run.steps - 1,
        steady_intervals=50,
    )


def share_inside(
    draw: Callable[[], Measurement],
    runs: int,
    steps: int,
    whole_s: Callable[[Measurement], float],
    times: int = 200,
) -> float:
    """Return how often the time of another run is inside the interval of so many measured ones."""
    inside = 0
    for _ in range(times):
        own = [draw() for _ in range(runs)]
        row = Estimator(own).estimate(own[0].cell, steps)
        inside += (row.seconds_low or 0) <= whole_s(draw()) <= (row.seconds_high or 0)
    return inside / times


@pytest.mark.parametrize(
    ("runs", "steps", "startup_sd"),
    [(1, 500, 0.02), (1, 500, 0.1), (3, 500, 0.05), (1, 5000, 0.1), (3, 5000, 0.05)],
)
def test_another_run_is_inside_although_its_start_up_differs(
    runs: int, steps: int, startup_sd: float
) -> None:
    """Step times differ by 2% between runs. A start-up taken as exact: 3 to 20% inside, of 500."""
    rng = np.random.default_rng(7)

    def draw() -> Measurement:
        startup_s, step_s = 26.4 * np.exp(rng.normal(0, startup_sd)), 0.011
        return measured(float(startup_s), float(step_s * np.exp(rng.normal(0, 0.02))))

    def whole_s(item: Measurement) -> float:
        return (item.startup_s or 0) + (steps - 1) * item.mean_step_s + 1.0

    assert share_inside(draw, runs, steps, whole_s) >= 0.7


def test_the_interval_of_one_run_by_hand() -> None:
    """27.4 s outside of 499 steps of 11 ms, each with the spread of one pair that differs."""
    row = Estimator([measured()]).estimate(COMPILED, 500)
    assert row.seconds == pytest.approx(27.4 + 499 * 0.011)
    up = [s * (math.exp(Z80 * sd * 2**0.5) - 1) for s, sd in ((27.4, 0.1), (499 * 0.011, 0.02))]
    assert row.seconds_high == pytest.approx((row.seconds or 0) + math.hypot(*up))


def test_spreads_are_those_of_repeated_runs() -> None:
    """Start-ups of 20, 25 and 30 s, and saves of 1, 1 and 11 s, of which starts know nothing."""
    ends = (1.0, 1.0, 11.0)
    own = [measured(20.0 + 5 * index, end_s=end_s) for index, end_s in enumerate(ends)]
    found = find_spreads(own)
    square = np.var(np.log([20, 25, 30]), ddof=1)
    assert found.startup == pytest.approx(math.sqrt((2 * square + 0.1**2) / 3))
    square = np.var(np.log([21, 26, 41]), ddof=1)
    assert found.outside == pytest.approx(math.sqrt((2 * square + 0.1**2) / 3))
    assert found.step == pytest.approx(0.02 / 3**0.5)
    # A run that saves otherwise is no repetition of them.
    run = COMPILED.run.model_copy(update={"checkpoint": None})
    assert find_spreads([*own, measured(99.0, cell=replace(COMPILED, run=run))]).outside == (
        pytest.approx(found.outside)
    )
    # Nor is one of another length, or one that took less than its steps, which contradicts itself.
    run = run.model_copy(update={"eval": None})
    cells = [replace(COMPILED, run=run.model_copy(update={"steps": steps})) for steps in (500, 900)]
    several = [measured(20.0, cell=cells[0]), measured(30.0, cell=cells[1])]
    several += [measured(20.0, cell=cells[0], end_s=-21.0)]
    assert find_spreads(several).outside == pytest.approx(0.1)


@pytest.mark.parametrize("intervals", [1, 2, 4, 20])
def test_another_run_is_inside_although_few_intervals_were_measured(intervals: int) -> None:
    """10% noise between intervals of 10 steps, 20,000 steps to come: of a single interval, whose
    error was taken as none, 30% were inside, and of two 68%."""
    rng = np.random.default_rng(7)

    def draw() -> Measurement:
        between = np.exp(rng.normal(0, 0.02))
        times_s = 0.1 * between * (1 + rng.normal(0, 0.1, intervals))
        mean, error = step_mean(times_s, np.full(intervals, 10))
        assert mean is not None
        whole = replace(measured(1.0, 0.1 * between), mean_s=mean, mean_error_s=error, wall_s=None)
        return replace(whole, steady_steps=10 * intervals, steady_intervals=intervals)

    def whole_s(item: Measurement) -> float:
        return 20_000 * item.step_s[1]

    assert 0.7 <= share_inside(draw, 1, 20_000, whole_s) <= 0.95


def test_the_error_of_few_intervals_leans_on_other_runs() -> None:
    """Nothing else known: 10% for an interval. Beside a run of 31 that differ by 2%: nearly 2%."""
    one = replace(measured(), mean_error_s=None, steady_steps=9, steady_intervals=1)
    assert find_spreads([one]).error(one) == pytest.approx(0.1)
    error_s = 0.011 * 0.02 / 31**0.5
    other = replace(measured(), mean_error_s=error_s, steady_steps=310, steady_intervals=31)
    both = find_spreads([one, other])
    assert both.error(one) == pytest.approx(math.sqrt((0.1**2 + 30 * 0.02**2) / 31))
    # Of many, its own intervals tell: 30 degrees of freedom against 3.
    own, usual = 0.02**2 / 31, both.interval**2 / 31
    assert both.error(other) == pytest.approx(math.sqrt((30 * own + 3 * usual) / 33))
    # The mean of 500 steps in one number is worth 50 intervals, and a speed alone has no error.
    typed = replace(one, steady_steps=500, steady_intervals=None)
    assert find_spreads([typed]).error(typed) == pytest.approx(0.1 / 50**0.5)
    assert find_spreads([one]).error(replace(typed, steady_steps=None)) == 0.0


def _row(make_grid: MakeGrid, steps: int) -> tuple[Estimate, str]:
    entry = {"cluster": "here", "model": "tiny", "gpus": 1}
    grid = make_grid({"grid": [entry], "run": {"steps": steps}})
    write_run(grid[0])
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_rows(grid), path)
    (row,) = estimate_table(grid, read_measurements(path, grid))
    return row, throughput_markdown(to_frame(throughput_rows(grid)))


def test_a_run_of_few_intervals_is_marked_in_both_tables(make_grid: MakeGrid) -> None:
    """Ten steps are one interval after the first step; the spread of one is 0."""
    row, table = _row(make_grid, 10)
    assert "Verified, with only 1 interval in steady state; speed over 9" in to_markdown([row])
    assert "¹ fewer than 4 intervals in steady state" in table
    longer, table = _row(make_grid, 40)
    assert "interval" not in to_markdown([longer]).split("|")[-2] + table
    assert (row.step_s_high or 0) / (row.step_s or 1) > 1.05 > (longer.step_s_high or 0) / 0.1
