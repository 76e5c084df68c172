from pathlib import Path

import pytest

from tests.study.conftest import MANY, MakeGrid, write_run
from tests.study.show.drawn import draw_losses, figures_of, legend_texts

SEEDS = {"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2, 4], "seed": [7, 5, 6]}]}


def test_many_cells_are_drawn_in_panels_by_gpu_count(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(MANY)
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    draw_losses(grid, tmp_path)
    assert [len(figure.axes) for figures in drawn.values() for figure in figures] == 8 * [3]


def test_seeds_are_one_line_with_a_band(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(SEEDS)
    for place, cell in enumerate(grid):
        write_run(cell, loss=lambda step, place=place: 6.0 / (1 + step / 50) + 0.1 * place)
    drawn = figures_of(monkeypatch)
    draw_losses(grid, tmp_path)
    (ax,) = drawn["loss_vs_tokens"][0].axes
    curves = [line for line in ax.lines if line.get_linestyle() != "None"]
    assert len(curves) == 3  # one for each GPU count
    assert len(ax.collections) == 3
    assert len({line.get_linewidth() for line in curves}) == 3  # where they coincide, all are seen
    assert [line.get_linewidth() for line in curves] == sorted(
        (line.get_linewidth() for line in curves), reverse=True
    )


@pytest.mark.parametrize("also_fine", [True, False])
def test_a_run_that_diverged_leaves_the_panel_at_its_top(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also_fine: bool
) -> None:
    """From 6 to 3000 nats; its lowest loss is the lowest of all, and its cross is at the edge.
    Alone it is shown whole."""
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]}]})
    if also_fine:
        write_run(grid[0], loss=lambda step: 6.0 - step / 50)
    wild = {10: 1.0, 40: 3000.0}
    write_run(grid[1], loss=lambda step: wild.get(step, 6.0), outcome="diverged")
    drawn = figures_of(monkeypatch)
    draw_losses(grid, tmp_path)
    (ax,) = drawn["loss_vs_steps"][0].axes
    low, high = ax.get_ylim()
    assert low < 1.0
    assert (6.0 < high < 7.0) if also_fine else high > 3000
    (cross,) = (line for line in ax.lines if line.get_marker() == "x")
    assert cross.get_ydata() == [high if also_fine else 3000]


@pytest.mark.parametrize("axis", ["steps", "tokens", "time", "flops"])
def test_each_axis_has_the_losses_at_its_own_places(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, axis: str
) -> None:
    """40 steps of 8 x 64 tokens, the first after 4 s, the others of 0.1 s. Of 164,416 parameters
    all but the embedding of 258 x 64 count; attention takes 12 x 2 x 64 x 64 FLOPs a token."""
    cell = make_grid()[0]
    write_run(cell, evaluations={20: 3.5})
    drawn = figures_of(monkeypatch)
    draw_losses(make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1}]}), tmp_path)
    (ax,) = drawn[f"loss_vs_{axis}"][0].axes
    curve, evaluated = ax.lines
    flops = 512 * (6 * (164_416 - 258 * 64) + 12 * 2 * 64 * 64)
    each = {"steps": 1, "tokens": 512, "flops": flops}.get(axis)
    first, last = (each, 40 * each) if each else (4.0, 4.0 + 39 * 0.1)
    x = curve.get_xdata()
    assert (x[0], x[-1]) == pytest.approx((first, last))
    assert evaluated.get_xdata() == pytest.approx([20 * each if each else 4.0 + 20 * 0.1])
    assert curve.get_ydata()[[0, -1]] == pytest.approx([6 / 1.02, 6 / 1.8])


def test_flops_have_their_power_of_ten(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    draw_losses(grid, tmp_path)
    for figure in drawn["loss_vs_flops"]:
        (ax,) = figure.axes
        labels = [label.get_text() for label in ax.get_xticklabels()]
        assert "1e9" in labels and "1e10" in labels
    assert "validation loss" not in legend_texts(drawn["loss_vs_flops"][0])
