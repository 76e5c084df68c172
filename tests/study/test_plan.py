from pathlib import Path

import pytest

from study.plan import format_plan, plan_table
from study.throughput import throughput_table, write_table
from tests.study.conftest import MakeGrid, write_run

SIX = {
    "models": {"deep": {"dim": 64, "n_layers": 4, "n_heads": 2}},
    "grid": [
        {"cluster": "here", "model": ["tiny", "wide", "deep"], "gpus": [1, 2]},
        {"cluster": "fast", "model": "tiny", "gpus": 2},
        {"cluster": "here", "model": "wide", "gpus": 4, "measure": False},
    ],
}


def test_before_anything_ran(make_grid: MakeGrid) -> None:
    rows = plan_table(make_grid(SIX), "nowhere/throughput.csv")
    assert {row.state for row in rows} == {"to run", "estimate only"}
    text = format_plan(rows)
    assert "not known" in text
    assert "8 cells: 7 to run, 1 estimate only. 7 to train, time not known." in text


def test_the_states_of_cells(make_grid: MakeGrid) -> None:
    grid = make_grid(SIX)
    write_run(grid[0])
    write_run(grid[1], status="preempted", outcome=None, steps_done=20)
    write_run(grid[2], status="failed", outcome=None, steps_done=0)
    write_run(grid[3], fingerprint="0" * 16)
    write_run(grid[4], outcome="diverged", steps_done=30)
    states = [(row.state, row.detail) for row in plan_table(grid)]
    assert states == [
        ("measured", ""),
        ("partly", "preempted, 20 of 40 steps"),
        ("failed", "0 of 40 steps"),
        ("stale", "settings have changed"),
        ("measured", "diverged, 30 of 40 steps"),
        ("to run", ""),
        ("to run", ""),
        ("estimate only", ""),
    ]


def test_times_are_of_the_cells_own_steps_and_totals_of_what_will_run(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]},
                               {"cluster": "fast", "model": "tiny", "gpus": 1}]})  # fmt: skip
    write_run(grid[0], step_s=90.0, startup_s=0.0)
    path = Path(grid.study.folder, "throughput.csv")
    write_table(throughput_table(grid), path)
    measured, to_run, unknown = plan_table(grid, path)
    assert measured.estimate.seconds == pytest.approx(39 * 90)
    # twice the batch on twice the GPUs takes as long: 40 steps of 90 s, on two GPUs 2 GPU-hours
    assert to_run.estimate.gpu_hours == pytest.approx(2.0, rel=1e-5)
    assert unknown.estimate.seconds is None
    text = format_plan([measured, to_run, unknown])
    assert "2 to train, 2 GPU-hours (and 1 of them not known)." in text


def test_the_request_is_slurms_or_this_machine(make_grid: MakeGrid) -> None:
    lines = format_plan(plan_table(make_grid(SIX))).splitlines()
    (fast,) = [line for line in lines if line.startswith("fast/")]
    assert "-A nlp -p fast --gres=gpu:2" in fast
    assert lines[2].endswith("this machine")
    assert "8 x 1" in lines[2]


def test_a_finished_study_has_nothing_to_train(make_grid: MakeGrid) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    assert format_plan(plan_table(grid)).endswith("4 cells: 4 measured. 0 to train.\n")
