"""The live view as text."""

import io

import pytest

from study.show import watch_text
from study.show.watch import Watch
from study.show.watch_text import follow, to_line, to_text
from tests.study.conftest import MakeGrid, write_run
from tests.study.show.watched import first, write_part


def test_many_cells_keep_to_the_terminal(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "seed": list(range(30))}
    grid = make_grid({"grid": [block]})
    write_part(grid[29])
    lines = to_text(Watch(grid).look(), 5).splitlines()
    assert lines[2].startswith("seed-29 ")
    assert lines[-1] == "and 25 to run"
    assert len(lines) == 8


def test_lines_instead_of_a_table_tell_what_has_changed(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [1, 2]}]})
    write_part(grid[0])
    steps = [lambda: None, lambda: write_run(grid[0]), lambda: write_run(grid[1])]
    monkeypatch.setattr(watch_text.time, "sleep", lambda seconds: steps.pop(0)())
    out = io.StringIO()
    follow(Watch(grid), out, every_s=1)
    lines = [line.split(",")[0] for line in out.getvalue().splitlines()]
    names = [cell.name for cell in grid]
    assert lines == [
        f"{names[0]}: running", f"{names[1]}: to run", "test: 1 to run",
        f"{names[0]}: done", "test: 1 done",
        f"{names[1]}: done", "test: 2 done",
    ]  # fmt: skip


def test_a_run_that_diverged_has_the_steps_that_it_made(make_grid: MakeGrid) -> None:
    grid = make_grid()
    write_run(grid[0], outcome="diverged", steps_done=5)
    write_run(grid[1])
    seen = Watch(grid).look()[:2]
    assert to_line(seen[0]).startswith(f"{grid[0].name}: diverged, step 5 of 40,")
    assert to_line(seen[1]).startswith(f"{grid[1].name}: done, step 40,")


def test_a_line_names_what_is_known(make_grid: MakeGrid) -> None:
    grid = make_grid({"run": {"logging": {"freq": 10}}})
    write_part(grid[0], share=0.6)
    assert to_line(first(grid)) == (
        f"{grid[0].name}: running, step 20 of 40, loss 4.2857, 5,120 tokens/s/GPU, 2 s left"
    )
