import hashlib
from pathlib import Path

import pytest

from study.grid import Grid
from study.measure.logs import read_runs
from study.measure.throughput import throughput_table
from study.show.plots import Style, plot_loss_curves, plot_scaling
from tests.study.conftest import MakeGrid, write_run

MANY = {
    "models": {f"m{n}": {"dim": 32 * n, "n_layers": 2, "n_heads": 2} for n in range(1, 11)},
    "grid": [{"cluster": "here", "model": [f"m{n}" for n in range(1, 11)], "gpus": [1, 2, 4]}],
}


def draw(grid: Grid, folder: Path) -> list[Path]:
    paths = plot_loss_curves(grid, read_runs(grid), folder)
    return paths + plot_scaling(grid, throughput_table(grid), folder)


def test_every_figure_is_written_as_svg_and_png(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, evaluations={20: 4.0, 40: 3.5})
    names = {path.name for path in draw(grid, tmp_path / "figures")}
    stems = ("loss_vs_tokens", "loss_vs_time", "throughput", "scaling_efficiency")
    assert names == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")}
    assert names == {path.name for path in (tmp_path / "figures").iterdir()}  # and nothing else


def test_equal_runs_give_equal_bytes(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in draw(grid, tmp_path / name)]
        for name in ("first", "second")
    ]
    assert digests[0] == digests[1]
    assert "<dc:date>" not in (tmp_path / "first" / "throughput.svg").read_text()


def test_without_runs_the_figures_say_so(make_grid: MakeGrid, tmp_path: Path) -> None:
    assert len(draw(make_grid(), tmp_path)) == 8


def test_runs_with_gaps_are_drawn(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    write_run(grid[0], loss=lambda step: 3.0 if step < 30 else None, outcome="diverged")
    write_run(grid[1], loss=lambda step: None, outcome="diverged")
    write_run(grid[2], status="failed", outcome=None)
    Path(grid[2].folder, "metrics.jsonl").unlink()
    assert len(draw(grid, tmp_path)) == 8


def test_many_cells_are_drawn_in_panels_by_gpu_count(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(MANY)
    for cell in grid:
        write_run(cell)
    draw(grid, tmp_path)
    svg = (tmp_path / "loss_vs_tokens.svg").read_text()
    assert svg.count('<g id="axes_') == 3


@pytest.mark.parametrize("changes", [{}, MANY])
def test_models_are_told_apart_by_colour(make_grid: MakeGrid, changes: dict) -> None:
    grid = make_grid(changes)
    style = Style.of(grid)
    models = {cell.model for cell in grid}
    assert set(style.colours) == models
    assert len({str(colour) for colour in style.colours.values()}) == len(models)
    assert list(style.sizes.values()) == sorted(style.sizes.values())
    assert len({str(line) for line in style.lines.values()}) == len({c.gpus for c in grid})


def test_further_seeds_are_thin(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1, "seed": [7, 5]}]})
    style = Style.of(grid)
    assert style.width(grid[0]) > style.width(grid[1])
