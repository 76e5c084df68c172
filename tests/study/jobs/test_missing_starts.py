"""What runs start from, looked for before the first job."""

from pathlib import Path
from typing import Any

import pytest

from study.grid import Grid
from study.jobs import missing_starts
from study.jobs.missing_starts import find_missing_starts
from tests.study.conftest import CONTINUED, MakeGrid, plan, write_run

WEIGHTS = {"checkpoint": {"init_ckpt_path": "/missing/weights"}}
TWO = [{"cluster": "here", "model": "tiny", "gpus": [1, 2], "variant": "warm"}]
TOLD = (
    "here/tiny/gpus-1/warm/seed-42, here/tiny/gpus-2/warm/seed-42 cannot start: "
    "checkpoint.init_ckpt_path: /missing/weights does not exist"
)


def warm(make_grid: MakeGrid, **changes: Any) -> Grid:
    return make_grid({"variants": {"warm": WEIGHTS}, "grid": TWO, **changes})


def test_what_is_missing_is_told_once_for_all_cells_and_by_the_plan(make_grid: MakeGrid) -> None:
    grid = warm(make_grid)
    assert find_missing_starts(grid, grid) == [TOLD]
    assert f"\n{TOLD}.\n" in plan(grid)[1]


@pytest.mark.parametrize("key", ["init_ckpt_path", "continue_from"])
def test_what_is_there_is_not_told(make_grid: MakeGrid, tmp_path: Path, key: str) -> None:
    folder = tmp_path / "earlier"
    grid = warm(make_grid, variants={"warm": {"checkpoint": {key: str(folder)}}})
    assert f"checkpoint.{key}: {folder} does not exist" in find_missing_starts(grid, grid)[0]
    folder.mkdir()
    assert find_missing_starts(grid, grid) == []


def test_a_run_that_resumes_needs_its_start_no_more(make_grid: MakeGrid) -> None:
    """Nor does one whose files were set aside by an edit that has been taken back since."""
    grid = warm(make_grid)
    write_run(grid[0], status="preempted", outcome=None, steps_done=20)
    write_run(grid[1], status="preempted", outcome=None, steps_done=0)
    assert find_missing_starts(grid, grid)[0].startswith("here/tiny/gpus-2/warm/seed-42 cannot")
    write_run(grid[1])
    aside = Path(grid[1].folder, "superseded", "1")
    aside.mkdir(parents=True)
    Path(grid[1].folder, "run.json").rename(aside / "run.json")
    assert find_missing_starts(grid, grid) == []


def test_a_checkpoint_that_another_cell_is_yet_to_write(make_grid: MakeGrid) -> None:
    grid = make_grid()
    source, *_ = grid
    path = f"{source.folder}/checkpoints/0000000040"
    variants = {"warm": {"checkpoint": {"continue_from": path}}}
    both = warm(make_grid, variants=variants, grid=[*TWO, {**TWO[0], "gpus": 1, "variant": "base"}])
    assert find_missing_starts(both, both) == []
    write_run(source)
    assert f"continue_from: {path} does not exist" in find_missing_starts(both, both)[0]
    branches = make_grid(CONTINUED)
    assert find_missing_starts(branches, branches) == []


def test_a_path_that_only_the_job_may_see_is_left_to_it(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in a container, and those on other file systems than the ones that nodes share."""
    boxed = warm(make_grid, clusters={"here": {"container": "apptainer exec torch.sif"}})
    assert find_missing_starts(boxed, boxed) == []
    on_slurm = warm(make_grid, grid=[{**TWO[0], "cluster": "fast"}])
    monkeypatch.setattr(missing_starts, "_file_system", lambda path: 1)
    assert len(find_missing_starts(on_slurm, on_slurm)) == 1
    monkeypatch.setattr(missing_starts, "_file_system", lambda path: "/missing" in str(path))
    assert find_missing_starts(on_slurm, on_slurm) == []
