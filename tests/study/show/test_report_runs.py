import json
import shlex
from pathlib import Path

from study.measure.summaries import read_summary
from study.show.report_runs import LOG_LINES, describe_runs, find_missing, read_log_end
from tests.study.conftest import MakeGrid, write_run

VARIANT = {
    "variants": {"slow": {"optim": {"lr": 0.5}, "data": {"batch_size": 4}}},
    "grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["slow", "base"]}],
}


def test_the_end_of_a_log(tmp_path: Path) -> None:
    assert read_log_end(tmp_path) == ""
    lines = [f"line {n}" for n in range(5000)]
    text = "\n".join([*lines, "\x1b[31mred\x1b[0m\x07", "10%\r20%", "", "caf\xe9"])
    (tmp_path / "train.log").write_bytes(text.encode("latin-1"))
    found = read_log_end(tmp_path).splitlines()
    assert len(found) == LOG_LINES
    assert found[-4:] == ["red", "10%", "20%", "caf�"]
    assert found[-5] == "line 4999"


def test_why_a_cell_is_missing(make_grid: MakeGrid) -> None:
    grid = make_grid()
    measured, diverged, failed, _ = grid
    write_run(measured)
    write_run(diverged, outcome="diverged", steps_done=30)
    write_run(failed, status="failed", outcome=None, steps_done=7)
    failure = {"kind": "gpu_out_of_memory", "rank": 3, "retry": False, "message": "rank 3: full"}
    Path(failed.folder, "failure.json").write_text(json.dumps(failure))
    for cell in (diverged, failed):
        Path(cell.folder, "train.log").write_text("the end\n")
    found = [find_missing(cell, read_summary(cell.folder), has_row=False) for cell in grid]
    assert [item and (item.state, item.detail, item.log) for item in found] == [
        None,
        ("diverged", "30 of 40 steps", "the end"),
        ("failed", "7 of 40 steps; rank 3: full", "the end"),
        ("to run", "", ""),
    ]


def test_a_job_that_failed_before_the_trainer_started_has_its_log(make_grid: MakeGrid) -> None:
    cell = make_grid()[0]
    Path(cell.folder).mkdir(parents=True)
    Path(cell.folder, "attempt.log").write_text("torchrun: command not found\n")
    found = find_missing(cell, None, has_row=False)
    assert found is not None
    assert found.log == "torchrun: command not found"


def test_the_differences_to_the_base(make_grid: MakeGrid) -> None:
    grid = make_grid(VARIANT)
    for cell in grid:
        write_run(cell, gpu_conditions={
            "clock_mhz": 1700, "clock_mhz_min": 1500, "clock_mhz_max": 1980, "power_limit_w": 700,
            "power_w": 600, "limits": ["temperature"],
        })  # fmt: skip
    summaries = {cell.name: read_summary(cell.folder) for cell in grid}
    base, (slow, plain) = describe_runs(grid, summaries, {grid[0].name: 50_000.0})
    assert base == grid[1].name  # the first without overrides
    assert plain.differences == []
    lr = str(grid[1].run.optim.lr)
    assert dict((key, (old, new)) for key, old, new in slow.differences) == {
        "optim.lr": (lr, "0.5"),
        "data.batch_size": ("8", "4"),
    }
    assert slow.config == grid[0].run.to_yaml()
    config = shlex.quote(f"config={grid[0].folder}/settings.yaml")
    assert slow.command.endswith(f"-m trainer {config}")
    facts = dict(slow.facts)
    assert facts["Commit"] == "0123456789abcdef"
    assert facts["Clock"] == "1700 MHz (1500 to 1980), lowered by: temperature"
    assert facts["Power limit"] == "700 W"
    assert facts["Energy per token"].startswith("12 mJ")  # 600 W / 50,000 tokens/s
    assert "Energy per token" not in dict(plain.facts)
    assert "CUDA" not in facts


def test_the_command_of_another_trainers_run_is_its_own(make_grid: MakeGrid) -> None:
    plain = {"script": "train.sh", "launcher": "none", "arguments": ["{steps}"],
        "log": {"format": "regex", "patterns": [r"it (?P<step>\d+)"]}}  # fmt: skip
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "trainer": "plain"}
    grid = make_grid({"trainers": {"plain": plain}, "grid": [block]})
    (cell,) = grid
    write_run(cell)
    _, (found,) = describe_runs(grid, {cell.name: read_summary(cell.folder)}, {cell.name: None})
    assert found.command.endswith(f" {shlex.quote(cell.folder)} -- train.sh {cell.run.steps}")
