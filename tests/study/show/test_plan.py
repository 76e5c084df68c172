import json
import os
import re
from pathlib import Path

import pytest

from study.estimate.forecast import Forecast
from study.jobs.text_changes import CHANGED, NEWER
from study.measure.changes import describe_change
from study.measure.summaries import find_failures
from study.measure.throughput_table import to_markdown
from study.show.plan import format_plan, format_totals, plan_table
from tests.study.conftest import MakeGrid, plan, throughput_table, write_run

SIX = {
    "models": {"deep": {"dim": 64, "n_layers": 4, "n_heads": 2}},
    "grid": [
        {"cluster": "here", "model": ["tiny", "wide", "deep"], "gpus": [1, 2]},
        {"cluster": "fast", "model": "tiny", "gpus": 2},
        {"cluster": "here", "model": "wide", "gpus": 4, "measure": False},
    ],
}


def test_before_anything_ran(make_grid: MakeGrid) -> None:
    grid = make_grid(SIX)
    forecast = Forecast(grid)
    rows = plan_table(grid, forecast)
    assert {row.state for row in rows} == {"to run", "estimate only"}
    text = format_plan(grid, rows, forecast)
    assert "not known" in text
    assert "8 cells: 7 to run, 1 estimate only. 7 to train, " in text
    assert "GPU-hours (not known for 6 of them)." in text


def test_states_of_cells(make_grid: MakeGrid) -> None:
    grid = make_grid(SIX)
    write_run(grid[0])
    write_run(grid[1], status="preempted", outcome=None, steps_done=20)
    write_run(grid[2], status="failed", outcome=None, steps_done=0)
    write_run(grid[3], fingerprint="0" * 16)
    write_run(grid[4], outcome="diverged", steps_done=30)
    write_run(grid[5])
    Path(grid[5].folder, "run.json").write_text("{")
    states = [(row.state, row.detail) for row in plan(grid)[0]]
    assert states == [
        ("measured", ""),
        ("partly", "preempted, 20 of 40 steps"),
        ("failed", "0 of 40 steps"),
        ("stale", "settings have changed"),
        ("measured", "diverged, 30 of 40 steps"),
        ("to run", "run.json cannot be read"),
        ("to run", ""),
        ("estimate only", ""),
    ]


def test_failed_cells_have_their_reasons_below_the_table(make_grid: MakeGrid) -> None:
    """Also those that were refused before there was a run.json."""
    grid = make_grid(SIX)
    refused = "/nowhere: 1 problem\n  checkpoint.init_ckpt_path: found no checkpoint"
    messages = ["rank 0: out of memory.\nmore", *5 * [refused]]
    write_run(grid[0], status="failed", outcome=None, steps_done=7)
    for cell, message in zip(grid, messages, strict=False):
        Path(cell.folder).mkdir(parents=True, exist_ok=True)
        failure = {"retry": False, "message": message}
        Path(cell.folder, "failure.json").write_text(json.dumps(failure))
    rows, text = plan(grid)
    assert [row.state for row in rows] == [*6 * ["failed"], "to run", "estimate only"]
    assert "8 cells: 6 failed, 1 to run, 1 estimate only. 7 to train" in text
    names = [cell.name for cell in grid]
    several = f"{', '.join(names[1:4])} and 2 more"
    told = [
        f"{names[0]} failed: rank 0: out of memory.",
        f"{several} failed: /nowhere: checkpoint.init_ckpt_path: found no checkpoint.",
    ]
    assert [line for line in text.splitlines() if " failed: " in line] == told
    notes = [f"note: {line}" for line in told]
    failures = find_failures(grid)
    assert to_markdown(throughput_table(grid), failures).splitlines()[-3::2] == notes
    # No run has a row yet.
    Path(grid[0].folder, "run.json").unlink()
    nothing = to_markdown(throughput_table(grid), failures)
    assert nothing.splitlines() == ["No run has been measured yet.", "", notes[0], "", notes[1]]
    # The next attempt of one has begun, and another was measured since.
    write_run(grid[0], status="running", outcome=None, steps_done=0)
    write_run(grid[1])
    assert list(find_failures(grid)) == names[2:6]


def test_a_stale_cell_says_what_has_changed(make_grid: MakeGrid) -> None:
    """As the run's own run.yaml has it; what no result depends on is no change."""
    before, changes = make_grid(), {"steps": 60, "distributed": {"timeout_s": 60}}
    for cell in before:
        write_run(cell)
        Path(cell.folder, "run.yaml").write_text(cell.run.to_yaml())
    assert describe_change(make_grid({"run": changes})[0]) == "steps 40 -> 60"
    many = {"steps": 60, "optim": {"lr": 2e-3, "clip": None, "beta1": 0.8, "beta2": 0.9}}
    told = describe_change(make_grid({"run": many})[0])
    assert told == "steps 40 -> 60, optim.lr 0.0003 -> 0.002, optim.clip 1.0 -> null, 2 more"
    text = plan(make_grid({"run": changes}))[1]
    assert text.count("stale (steps 40 -> 60)") == 4
    Path(before[0].folder, "run.yaml").unlink()
    assert describe_change(make_grid({"run": changes})[0]) == "settings have changed"


@pytest.mark.parametrize(
    ("text", "listed", "trained", "key", "told"),
    [
        pytest.param(10, 20, 30, "same", ("measured", ""), id="in order"),
        pytest.param(40, 20, 30, "same", ("measured", NEWER), id="newer text"),
        pytest.param(40, 50, 30, "other", ("stale", CHANGED), id="newer text, tokenised"),
        pytest.param(40, 50, 30, "same", ("measured", ""), id="written again, the same"),
        pytest.param(None, 50, 30, "other", ("stale", CHANGED), id="of a text that is gone"),
        pytest.param(None, 20, 30, "same", ("measured", ""), id="a copy without the text"),
        pytest.param(40, None, 30, "same", ("measured", ""), id="a copy without the list"),
    ],
)
def test_a_run_whose_text_has_changed_since_is_told(
    tmp_path: Path,
    make_grid: MakeGrid,
    text: int | None,
    listed: int | None,
    trained: int,
    key: str,
    told: tuple[str, str],
) -> None:
    """When each file was written, s, and whose key the list of shards has."""
    data = {"root_dir": str(tmp_path)}
    entry = {"cluster": "here", "model": "tiny", "gpus": 1}
    grid = make_grid({"corpora": [], "run": {"data": data}, "grid": [entry]})
    write_run(grid[0], content={"python_stdlib": "same"})
    source = tmp_path / "python_stdlib"
    held_out = source / "python_stdlib.val.jsonl"
    written = {
        held_out: text and 10,
        source / "python_stdlib.chunk.00.jsonl": text,
        Path(grid.study.folder, "data", "python_stdlib.json"): listed,
        Path(grid[0].folder, "completed"): trained,
    }
    for path, seconds in written.items():
        if seconds is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"key": key}))
            os.utime(path, (seconds, seconds))
    assert [(row.state, row.detail) for row in plan(grid)[0]] == [told]


def test_of_many_stale_cells_the_first_say_what_has_changed(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.show.plan.MOST_EXPLAINED", 1)
    for cell in make_grid():
        write_run(cell)
        Path(cell.folder, "run.yaml").write_text(cell.run.to_yaml())
    details = [row.detail for row in plan(make_grid({"run": {"steps": 60}}))[0]]
    assert details == ["steps 40 -> 60", *["settings have changed"] * 3]


def test_times_are_for_the_cells_own_steps_and_totals_for_cells_to_train(
    make_grid: MakeGrid,
) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]},
                               {"cluster": "there", "model": "tiny", "gpus": 1}],
                      "clusters": {"there": {"gpu_name": "X", "gpus_per_node": 1}}})  # fmt: skip
    write_run(grid[0], step_s=90.0, startup_s=0.0)
    (measured, to_run, unknown), text = plan(grid)
    assert measured.estimate.seconds == pytest.approx(39 * 90)
    # twice the batch on twice the GPUs takes as long: 40 steps of 90 s, on two GPUs 2 GPU-hours
    assert to_run.estimate.gpu_hours == pytest.approx(2.0, rel=0.1)
    assert unknown.estimate.seconds is None
    hours = f"{to_run.estimate.gpu_hours:.2g}"
    assert f"2 to train, {hours} GPU-hours (not known for 1 of them)." in text


def test_many_gpu_hours_have_no_exponent(make_grid: MakeGrid) -> None:
    """40 steps of 90,000 s on two GPUs take about 2,000 GPU-hours."""
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]}]})
    write_run(grid[0], step_s=9e4, startup_s=0.0)
    (_, to_run), text = plan(grid)
    hours = f"{to_run.estimate.gpu_hours:,.0f}"
    assert f"1 to train, {hours} GPU-hours." in text
    assert hours in text.splitlines()[-1] and "e+" not in text


def test_the_request_is_for_slurm_or_this_machine(make_grid: MakeGrid) -> None:
    lines = plan(make_grid(SIX))[1].splitlines()[2:]  # below the totals
    (fast,) = [line for line in lines if line.startswith("fast/")]
    assert "-A nlp -p fast --gres=gpu:2" in fast
    assert lines[2].endswith("this machine")
    assert "8 x 1" in lines[2]


def test_a_finished_study_has_nothing_to_train(make_grid: MakeGrid) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    assert plan(grid)[1].startswith("4 cells: 4 measured. 0 to train.\n\n")


def test_totals_are_for_people(make_grid: MakeGrid) -> None:
    """`1 cells`, and five thousand cells without a comma."""
    grid = make_grid()
    (row, *_) = plan_table(grid, Forecast(grid))
    assert format_totals([row]).startswith("1 cell: 1 to run. 1 to train")
    assert format_totals([row] * 5400).startswith("5,400 cells: 5,400 to run. 5,400 to train")


def test_cells_within_a_budget(make_grid: MakeGrid) -> None:
    """Cells of about an hour: 40 steps of 90 s on 1, 2 and 4 processes; the last is too much."""
    cells = [{"cluster": "here", "model": ["tiny", "wide"], "gpus": [1, 2, 4]}]
    grid = make_grid({"grid": cells, "budget": {"gpu_hours": 4}})
    write_run(grid[0], step_s=90.0)
    write_run(grid[3], step_s=90.0)
    text = plan(grid)[1]
    assert "Within 4 GPU-hours, by the upper ends: here/tiny/gpus-2" in text
    assert "Over budget: " in text
    assert "here/wide/gpus-4/base/seed-42" in text.split("Over budget: ")[1]
    assert "Measuring here/" in text


def test_the_plan_warns_of_a_cell_that_does_not_fit(make_grid: MakeGrid) -> None:
    """A billion parameters: 16 GB of weights, gradients and moments, with 8 GiB of memory; of
    90 billion, over 1,340 GiB."""
    large = {"dim": 12288, "n_layers": 48, "n_heads": 96}
    grid = make_grid(
        {
            "models": {"billion": {"dim": 2048, "n_layers": 20, "n_heads": 16}, "large": large},
            "clusters": {"fast": {"memory_gib": 8}},
            "grid": [{"cluster": "fast", "model": ["tiny", "billion", "large"], "gpus": 1}],
        }
    )
    rows, text = plan(grid)
    assert rows[0].warning == ""
    assert rows[1].warning.startswith("does not fit: ")
    assert re.match(r"does not fit: 1,\d{3} GiB \(up to \d,\d{3}\) of 8 a GPU", rows[2].warning)
    assert "fast/billion/gpus-1/base/seed-42: does not fit" in text


def test_the_plan_warns_of_a_run_longer_than_its_limit(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "fast", "model": "tiny", "gpus": [1, 2]}]})
    write_run(grid[0], step_s=90.0)
    assert "may take longer than its limit of 30 min" in plan(grid)[0][1].warning
