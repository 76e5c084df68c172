import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from study.grid import Grid
from study.measure.logs import read_runs
from study.show import plots
from study.show.forms import FORMS
from study.show.plots import (
    SCALING_FIGURES,
    ScalingFigure,
    Style,
    plot_loss_curves,
    plot_scaling,
)
from study.show.sheets import SHEETS, STYLE, Sheet
from tests.study.conftest import MakeGrid, throughput_table, write_run

MANY = {
    "models": {f"m{n}": {"dim": 32 * n, "n_layers": 2, "n_heads": 2} for n in range(1, 11)},
    "grid": [{"cluster": "here", "model": [f"m{n}" for n in range(1, 11)], "gpus": [1, 2, 4]}],
}


def draw(grid: Grid, folder: Path) -> list[Path]:
    paths = plot_loss_curves(grid, read_runs(grid), folder)
    return paths + plot_scaling(grid, throughput_table(grid), folder)


def figures_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Figure]]:
    """Return file name -> figures, filled while figures are drawn."""
    drawn: dict[str, list[Figure]] = {}

    def write_figure(path: Path, draw: Callable[[Sheet], Figure]) -> list[Path]:
        with mpl.rc_context(fname=STYLE):
            drawn[path.name] = [draw(sheet) for sheet in SHEETS]
        return []

    monkeypatch.setattr(plots, "write_figure", write_figure)
    return drawn


def test_every_figure_is_written_in_all_forms(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, evaluations={20: 4.0, 40: 3.5})
    names = {path.name for path in draw(grid, tmp_path / "figures")}
    stems = ("loss_vs_tokens", "loss_vs_time", "throughput", "scaling_efficiency")
    assert names == {f"{stem}{form}" for stem in stems for form in FORMS}
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
    assert b"CreationDate" not in (tmp_path / "first" / "throughput.pdf").read_bytes()
    assert "<dc:date>" not in (tmp_path / "first" / "throughput.svg").read_text()


def test_figures_without_runs_have_a_message(make_grid: MakeGrid, tmp_path: Path) -> None:
    assert len(draw(make_grid(), tmp_path)) == 4 * len(FORMS)


@pytest.mark.parametrize(
    ("changes", "shown", "not_shown"),
    [
        ({}, ["0.0", "0.2", "1.4"], ["linear scaling", "Also", "%"]),
        ({"scale": "percent", "reference": "one"}, ["100%", "linear scaling"], ["1.4"]),
        ({"scale": "log", "reference": "linear scaling"}, ["1.5", "linear scaling"], ["%"]),
    ],
)
def test_a_new_figure_is_one_entry(
    make_grid: MakeGrid,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    shown: list[str],
    not_shown: list[str],
) -> None:
    """Every run has a peak memory of 1.5 GiB. matplotlib writes each text as an SVG comment too."""
    memory = ScalingFigure(
        column="peak_memory_gib",
        label="Memory (GiB)",
        scale="linear",
        reference=None,
        empty_message="No run has recorded its memory yet.",
    )
    monkeypatch.setitem(SCALING_FIGURES, "memory", replace(memory, **changes))
    grid = make_grid()
    plot_scaling(grid, throughput_table(grid), tmp_path)
    assert "<!-- No run has recorded its memory yet. -->" in (tmp_path / "memory.svg").read_text()
    for cell in grid:
        write_run(cell)
    plot_scaling(grid, throughput_table(grid), tmp_path)
    texts = re.findall("<!-- (.*) -->", (tmp_path / "memory.svg").read_text())
    assert {"Memory (GiB)", *shown} <= set(texts)
    assert not any(part in text for part in not_shown for text in texts)


def test_runs_with_gaps_are_drawn(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    write_run(grid[0], loss=lambda step: 3.0 if step < 30 else None, outcome="diverged")
    write_run(grid[1], loss=lambda step: None, outcome="diverged")
    write_run(grid[2], status="failed", outcome=None)
    Path(grid[2].folder, "metrics.jsonl").unlink()
    assert len(draw(grid, tmp_path)) == 4 * len(FORMS)


def test_many_cells_are_drawn_in_panels_by_gpu_count(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(MANY)
    for cell in grid:
        write_run(cell)
    draw(grid, tmp_path)
    svg = (tmp_path / "loss_vs_tokens.svg").read_text()
    assert svg.count('<g id="axes_') == 3


@pytest.mark.parametrize("changes", [{}, MANY])
def test_models_differ_in_colour(make_grid: MakeGrid, changes: dict) -> None:
    grid = make_grid(changes)
    style = Style.of(grid)
    models = {cell.model for cell in grid}
    assert set(style.colours) == models
    assert len({str(colour) for colour in style.colours.values()}) == len(models)
    assert list(style.sizes.values()) == sorted(style.sizes.values())
    assert len({str(line) for line in style.lines.values()}) == len({c.gpus for c in grid})


SEEDS = {"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2, 4], "seed": [7, 5, 6]}]}


def test_seeds_are_one_line_with_a_band(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(SEEDS)
    for place, cell in enumerate(grid):
        write_run(cell, loss=lambda step, place=place: 6.0 / (1 + step / 50) + 0.1 * place)
    drawn = figures_of(monkeypatch)
    draw(grid, tmp_path)
    (ax,) = drawn["loss_vs_tokens"][0].axes
    curves = [line for line in ax.lines if line.get_linestyle() != "None"]
    assert len(curves) == 3  # one for each GPU count
    assert len(ax.collections) == 3
    assert len({line.get_linewidth() for line in curves}) == 3  # where they coincide, all are seen
    assert [line.get_linewidth() for line in curves] == sorted(
        (line.get_linewidth() for line in curves), reverse=True
    )


def test_there_is_one_ideal_line_for_each_model_and_no_empty_heading(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(SEEDS)
    for place, cell in enumerate(grid):
        write_run(cell, step_s=0.1 + 0.01 * place)
    drawn = figures_of(monkeypatch)
    draw(grid, tmp_path)
    for figure in drawn["throughput"]:
        (ax,) = figure.axes
        dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 1
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        for title in ("Model (parameters)", "Also"):
            assert texts[texts.index(title) + 1]
        assert "Variant" not in texts
        assert texts.count("linear scaling") == 1


def test_nothing_is_cut_at_the_width_of_one_column(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"variants": {"strong": {}, "wider_than_the_others": {"optim": {"lr": 1e-4}}}}
    block = {"cluster": ["here", "fast"], "model": ["tiny", "wide"], "gpus": [1, 2]}
    grid = make_grid({**variants, "grid": [{**block, "variant": ["base", *variants["variants"]]}]})
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    draw(grid, tmp_path)
    for name, figures in drawn.items():
        for sheet, figure in zip(SHEETS, figures, strict=True):
            with mpl.rc_context(fname=STYLE):
                FigureCanvasAgg(figure).draw()
                bounds = figure.get_tightbbox()
            assert bounds.x0 >= -0.02 and bounds.x1 <= sheet.width + 0.02, name
            assert bounds.y0 >= -0.02 and bounds.y1 <= figure.get_size_inches()[1] + 0.02, name
