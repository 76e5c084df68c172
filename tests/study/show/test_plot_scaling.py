import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from study.show.plot_scaling import SCALING_FIGURES, ScalingFigure, plot_scaling
from study.show.plot_tables import plot_tables
from tests.study.conftest import MakeGrid, throughput_table, write_run
from tests.study.show.drawn import figures_of, legend_texts

SEEDS = {"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2, 4], "seed": [7, 5, 6]}]}


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


def test_there_is_one_ideal_line_for_each_model_and_no_empty_heading(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = make_grid(SEEDS)
    for place, cell in enumerate(grid):
        write_run(cell, step_s=0.1 + 0.01 * place)
    drawn = figures_of(monkeypatch)
    plot_scaling(grid, throughput_table(grid), tmp_path)
    for figure in drawn["throughput"]:
        (ax,) = figure.axes
        dotted = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert len(dotted) == 1
        texts = legend_texts(figure)
        for title in ("Model (parameters)", "Also"):
            assert texts[texts.index(title) + 1]
        assert "Variant" not in texts
        assert texts.count("linear scaling") == 1


def test_a_seed_that_diverged_counts_only_if_all_did(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 tokens in 0.1 s, or in 0.01 s by the run that diverged; both did on two GPUs."""
    block = {"cluster": "here", "model": "tiny", "gpus": [1, 2], "seed": [7, 5]}
    grid = make_grid({"grid": [block], "clusters": {"here": {"peak_tflops": 1.0}}})
    for cell in grid:
        diverged = cell.gpus == 2 or cell.seed == 5
        outcome = "diverged" if diverged else "trained"
        write_run(cell, step_s=0.01 if diverged else 0.1, outcome=outcome)
    drawn, table = figures_of(monkeypatch), throughput_table(grid)
    plot_scaling(grid, table, tmp_path)
    plot_tables(grid, table, tmp_path)
    (ax,), (heat,) = (drawn[name][0].axes for name in ("throughput", "mfu"))
    assert ax.lines[0].get_ydata() == pytest.approx([5120, 102_400])
    expected = 100 * table["mfu"][[0, 2]]
    assert [float(text.get_text()) for text in heat.texts] == pytest.approx(expected, rel=0.01)


def test_a_model_on_one_gpu_count_has_no_ideal_line(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"tiny": [1, 2], "wide": 1}
    grid = make_grid({"grid": [{"cluster": "here", "model": model, "gpus": gpus}
                               for model, gpus in counts.items()]})  # fmt: skip
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    plot_scaling(grid, throughput_table(grid), tmp_path)
    for figure in drawn["throughput"]:
        (ax,) = figure.axes
        assert len([line for line in ax.lines if line.get_linestyle() == ":"]) == 1


def test_without_an_ideal_line_the_legend_names_none(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants alone: without their base none has an ideal line."""
    sweep = {
        "cluster": "here",
        "model": "tiny",
        "gpus": [1, 2],
        "sweep": {"optim.lr": [1e-3, 3e-3]},
    }
    grid = make_grid({"grid": [sweep]})
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    plot_scaling(grid, throughput_table(grid), tmp_path)
    for figure in drawn["throughput"]:
        assert "linear scaling" not in legend_texts(figure)


def test_the_legend_names_trainers_and_their_variants(make_grid: MakeGrid, tmp_path: Path) -> None:
    other = {
        "launcher": "none",
        "script": "zsh",
        "log": {"format": "json", "fields": {"step": "n"}},
    }
    block = {"cluster": "here", "model": "tiny", "gpus": [1, 2], "trainer": ["zsh", "ours"]}
    changes = {"trainers": {"zsh": other}, "variants": {"fast": {"optim": {"lr": 0.1}}}}
    for variants, heading, names in (
        ("base", "Trainer", ["ours", "zsh"]),
        (["base", "fast"], "Trainer and variant", ["ours", "zsh", "zsh, fast", "ours, fast"]),
    ):
        grid = make_grid({**changes, "grid": [{**block, "variant": variants}]})
        for cell in grid:
            write_run(cell)
        plot_scaling(grid, throughput_table(grid), tmp_path)
        texts = re.findall("<!-- (.*) -->", (tmp_path / "throughput.svg").read_text())
        start = texts.index(heading)
        assert texts[start + 1 : start + 1 + len(names)] == names


def test_gpu_counts_do_not_run_into_each_other(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    block = {"cluster": "here", "model": "tiny", "gpus": counts}
    grid = make_grid({"clusters": {"here": {"gpus_per_node": 256}}, "grid": [block]})
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    plot_scaling(grid, throughput_table(grid), tmp_path)
    for figure in drawn["throughput"]:
        FigureCanvasAgg(figure).draw()
        labels = [text for text in figure.axes[0].get_xticklabels() if text.get_text()]
        assert {1, 8, 16, 32, 64, 256} <= {int(text.get_text()) for text in labels}
        boxes = [text.get_window_extent() for text in labels]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
