"""What holds for every figure of a study."""

import hashlib
from itertools import combinations, pairwise
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from study.show.forms import FORMS
from study.show.sheets import SHEETS, STYLE
from tests.study.conftest import MakeGrid, write_run
from tests.study.show.drawn import draw_all, figures_of

NAMES = (
    *("loss_vs_steps", "loss_vs_tokens", "loss_vs_time", "loss_vs_flops", "time_by_part"),
    *("throughput", "scaling_efficiency", "variants", "mfu", "estimates"),
)


def test_every_figure_is_written_in_all_forms_with_equal_bytes_for_equal_runs(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell, evaluations={20: 4.0, 40: 3.5})
    first = draw_all(grid, tmp_path / "first")
    names = {path.name for path in first}
    assert names == {f"{name}{form}" for name in NAMES for form in FORMS}
    assert names == {path.name for path in (tmp_path / "first").iterdir()}  # and nothing else
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        for paths in (first, draw_all(grid, tmp_path / "second"))
    ]
    assert digests[0] == digests[1]
    assert b"CreationDate" not in (tmp_path / "first" / "throughput.pdf").read_bytes()
    assert "<dc:date>" not in (tmp_path / "first" / "throughput.svg").read_text()


def test_figures_without_runs_have_a_message(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = figures_of(monkeypatch)
    draw_all(make_grid(), tmp_path)
    assert set(drawn) == set(NAMES)
    for figures in drawn.values():
        for figure in figures:
            (message,) = figure.texts
            assert message.get_text().startswith("No ")
            assert not figure.axes


def test_runs_with_gaps_are_drawn(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid()
    write_run(grid[0], loss=lambda step: 3.0 if step < 30 else None, outcome="diverged")
    write_run(grid[1], loss=lambda step: None, outcome="diverged")
    write_run(grid[2], status="failed", outcome=None)
    Path(grid[2].folder, "metrics.jsonl").unlink()
    drawn = figures_of(monkeypatch)
    draw_all(grid, tmp_path)
    for figures in drawn.values():
        for figure in figures:
            FigureCanvasAgg(figure).draw()
    assert len(drawn["loss_vs_steps"][0].axes[0].lines) == 2  # a curve, and its cross


def test_titles_of_long_names_keep_to_their_panels(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the labels of the axes apart from the legend, and those of ticks from each other."""
    cluster = "a-cluster-called-after-its-building"
    models = {
        f"my-very-long-model-name-with-number-{n}": {"dim": 32 * n, "n_layers": 2, "n_heads": 2}
        for n in range(1, 10)
    }
    settings = {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 4, "peak_tflops": 1e-4}
    block = {"cluster": cluster, "model": list(models), "gpus": [1, 2, 4]}
    grid = make_grid({"models": models, "clusters": {cluster: settings}, "grid": [block],
                      "run": {"steps": 200}})  # fmt: skip
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    draw_all(grid, tmp_path)
    for sheet, figure in zip(SHEETS, drawn["mfu"], strict=True):
        with mpl.rc_context(fname=STYLE):
            FigureCanvasAgg(figure).draw()
            bounds = figure.get_tightbbox()
        assert bounds.x0 >= -0.02 and bounds.x1 <= sheet.width + 0.02
    for name in ("loss_vs_steps", "throughput"):
        for sheet, figure in zip(SHEETS, drawn[name], strict=True):
            with mpl.rc_context(fname=STYLE):
                FigureCanvasAgg(figure).draw()
            (legend,) = figure.legends
            taken = legend.get_window_extent()
            titles = [ax.title if ax.title.get_text() else ax._left_title for ax in figure.axes]
            boxes = [title.get_window_extent() for title in titles]
            assert all(title.get_text() for title in titles)
            assert not any(a.overlaps(b) for a, b in combinations([*boxes, taken], 2)), name
            for ax in figure.axes:
                labels = [ax.xaxis.label, ax.yaxis.label, figure._supxlabel, figure._supylabel]
                told = [label for label in labels if label is not None and label.get_text()]
                assert not any(taken.overlaps(label.get_window_extent()) for label in told), name
                ticks = [label.get_window_extent() for label in ax.get_xticklabels()]
                assert not any(a.overlaps(b) for a, b in pairwise(ticks)), (name, sheet)


def test_nothing_is_cut_at_the_width_of_one_column(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"strong": {}, "wider_than_the_others": {"optim": {"clip": None}}, "long_" * 12: {}}
    models = {"a-model-of-a-long-name": {"dim": 64, "n_layers": 2, "n_heads": 2}}
    clusters = {"here": {"peak_tflops": 1.0}}
    block = {"cluster": ["here", "fast"], "model": ["tiny", "wide", *models], "gpus": [1, 2]}
    grid = make_grid({"variants": names, "models": models, "clusters": clusters,
                      "grid": [{**block, "variant": ["base", *names]}]})  # fmt: skip
    for cell in grid:
        slow = cell.plain_variant == "wider_than_the_others"
        write_run(cell, 0.13 if slow else 0.1)
    drawn = figures_of(monkeypatch)
    draw_all(grid, tmp_path)
    for name, figures in drawn.items():
        for sheet, figure in zip(SHEETS, figures, strict=True):
            with mpl.rc_context(fname=STYLE):
                FigureCanvasAgg(figure).draw()
                bounds = figure.get_tightbbox()
            assert bounds.x0 >= -0.02 and bounds.x1 <= sheet.width + 0.02, name
            assert bounds.y0 >= -0.02 and bounds.y1 <= figure.get_size_inches()[1] + 0.02, name
            for ax in figure.axes if name in ("mfu", "variants") else ():
                texts = [text.get_window_extent() for text in ax.texts]
                within = ax.get_window_extent()
                assert all(within.x0 <= box.x0 and box.x1 <= within.x1 for box in texts), name
                assert not any(a.overlaps(b) for a, b in combinations(texts, 2)), name
