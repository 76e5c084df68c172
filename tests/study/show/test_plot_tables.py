"""Variants beside their base, and MFU, from the throughput table."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from study.show.forms import FORMS
from study.show.plot_tables import plot_tables, variant_ratios
from tests.study.conftest import MakeGrid, throughput_table, write_run
from tests.study.show.drawn import figures_of, texts_beyond

VARIANTS = {
    "variants": {"fast": {"optim": {"clip": None}}, "slow": {"optim": {"name": "muon"}}},
    "grid": [
        {"cluster": "here", "model": "tiny", "gpus": 1, "variant": ["slow", "base", "fast"]},
        {"cluster": "here", "model": "tiny", "gpus": 1, "variant": "base", "seed": [1, 2]},
        {"cluster": "here", "model": "wide", "gpus": 2, "variant": ["slow", "fast"]},
        {"cluster": "fast", "model": "wide", "gpus": 2},
    ],
}

STEP_S = {"base": 0.1, "fast": 0.08, "slow": 0.2}


def test_a_variant_is_compared_with_the_base_of_its_model_and_gpu_count(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    grid = make_grid(VARIANTS)
    for cell in grid:
        # Of three seeds the median counts: one slow run does not move the base.
        step_s = 0.4 if cell.seed == 2 else STEP_S[cell.variant]
        write_run(cell, step_s=step_s)
    table = throughput_table(grid)
    found = variant_ratios(grid, table)
    ratios = {(row.model, row.variant, row.base): row.ratio for row in found.itertuples()}
    assert ratios == {
        ("tiny", "slow", "base"): pytest.approx(0.5),
        ("tiny", "fast", "base"): pytest.approx(1.25),
        ("wide", "fast", "slow"): pytest.approx(2.5),  # no `base` there: its first variant
    }
    written = plot_tables(grid, table, tmp_path)
    assert {path.name for path in written} == {
        f"{name}{form}" for name in ("variants", "mfu") for form in FORMS
    }
    texts = re.findall("<!-- (.*) -->", (tmp_path / "variants.svg").read_text())
    assert {"x0.5", "x1.25", "x2.5", "slow: tiny/1", "fast: wide/2"} <= set(texts)
    assert "Tokens/s/GPU over that of base, slow" in texts
    # MFU: of the cluster with a peak alone.
    texts = re.findall("<!-- (.*) -->", (tmp_path / "mfu.svg").read_text())
    assert "fast: MFU (%)" in texts and "here: MFU (%)" not in texts


def test_variants_that_cannot_differ_in_speed_are_repeats(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """Of three learning rates the medians are 0.1 s and, with muon, 0.2 s a step."""
    rates = {
        "cluster": "here",
        "model": "tiny",
        "gpus": 1,
        "sweep": {"optim.lr": [1e-3, 2e-3, 4e-3]},
    }
    grid = make_grid({
        "variants": {"muon": {"optim": {"name": "muon"}}},
        "grid": [{**rates, "variant": ["base", "muon"]}],
    })  # fmt: skip
    times = {"base": [0.1, 0.07, 0.3], "muon": [0.4, 0.2, 0.1]}
    for name, of_name in times.items():
        cells = [cell for cell in grid if cell.run.optim.name == {"base": "adamw"}.get(name, name)]
        for cell, step_s in zip(cells, of_name, strict=True):
            write_run(cell, step_s=step_s)
    table = throughput_table(grid)
    (found,) = variant_ratios(grid, table).itertuples()
    assert (found.variant, found.base) == ("muon+lr-0.001", "lr-0.001")
    assert found.ratio == pytest.approx(0.5)
    # A table of before the column was there tells nothing alike.
    assert len(variant_ratios(grid, table.assign(speed_key=None))) == 5


def test_an_mfu_above_the_peak_is_marked(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid({"clusters": {"here": {"peak_tflops": 1e-4}}})
    write_run(grid[0])
    write_run(grid[1], step_s=1e3)
    table = throughput_table(grid)
    first, second = (100 * float(value) for value in table["mfu"])
    plot_tables(grid, table, tmp_path)
    texts = re.findall("<!-- (.*) -->", (tmp_path / "mfu.svg").read_text())
    assert {f"{first:.3g}†", f"{second:.3g}"} <= set(texts)
    assert "† above 100%: peak_tflops is not that of the GPU used" in texts


def test_names_that_are_hard_to_tell_apart_are_numbered(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """They differ in two places far from their ends."""
    shape = {"dim": 64, "n_layers": 2, "n_heads": 2}
    names = [f"{'a' * 30}{x}{'b' * 40}{y}{'c' * 30}" for x in "01" for y in "01"]
    grid = make_grid({
        "models": dict.fromkeys(names, shape),
        "clusters": {"here": {"peak_tflops": 1.0}},
        "grid": [{"cluster": "here", "model": names, "gpus": 1}],
    })  # fmt: skip
    for cell in grid:
        write_run(cell)
    plot_tables(grid, throughput_table(grid), tmp_path)
    texts = re.findall("<!-- (a.*) -->", (tmp_path / "mfu.svg").read_text())
    assert len(texts) == len({*texts}) == 4


def test_a_run_that_diverged_is_no_repeat_of_one_that_did_not(make_grid: MakeGrid) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": 1}
    grid = make_grid({
        "variants": {"hot": {"optim": {"lr": 1e30}}, "muon": {"optim": {"name": "muon"}}},
        "grid": [{**block, "variant": ["base", "hot", "muon"]}],
    })  # fmt: skip
    for cell, step_s in zip(grid, (0.1, 0.9, 0.2), strict=True):
        outcome = "trained" if cell.variant == "base" else "diverged"
        write_run(cell, step_s=step_s, outcome=outcome)
    (found,) = variant_ratios(grid, throughput_table(grid)).itertuples()
    assert (found.variant, found.ratio) == ("muon", pytest.approx(0.5))


def test_without_variants_and_peaks_the_figures_say_so(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid()
    for cell in grid:
        write_run(cell)
    plot_tables(grid, throughput_table(grid), tmp_path)
    assert "No measured cell has another variant" in (tmp_path / "variants.svg").read_text()
    assert "no measured cluster states" in (tmp_path / "mfu.svg").read_text()


def test_variants_of_equal_speed_are_no_bars(make_grid: MakeGrid, tmp_path: Path) -> None:
    block = {"cluster": "here", "model": "tiny", "gpus": 1, "sweep": {"optim.lr": [1e-3, 3e-3]}}
    grid = make_grid({"grid": [block]})
    for cell in grid:
        write_run(cell)
    plot_tables(grid, throughput_table(grid), tmp_path)
    drawn = (tmp_path / "variants.svg").read_text()
    assert "No measured variant can differ in speed from its base." in drawn


def test_other_trainers_are_compared_with_ours(make_grid: MakeGrid, tmp_path: Path) -> None:
    other = {
        "launcher": "none",
        "script": "zsh",
        "log": {"format": "json", "fields": {"step": "n"}},
    }
    block = {"cluster": "fast", "model": "wide", "gpus": 2, "trainer": ["ours", "zsh"]}
    variants = {"variants": {"fast": {"optim": {"clip": None}}}, "trainers": {"zsh": other}}
    grid = make_grid({**variants, "grid": [{**block, "variant": ["base", "fast"]}]})
    for cell in grid:
        write_run(cell)
    plot_tables(grid, throughput_table(grid), tmp_path)
    texts = re.findall("<!-- (.*) -->", (tmp_path / "variants.svg").read_text())
    assert {"ours, fast: wide/2", "zsh: wide/2", "zsh, fast: wide/2"} <= set(texts)
    assert "Tokens/s/GPU over that of ours" in texts
    texts = re.findall("<!-- (.*) -->", (tmp_path / "mfu.svg").read_text())
    assert {"wide, ours", "wide, ours, fast", "wide, zsh", "wide, zsh, fast"} <= set(texts)


def test_the_mfu_of_many_gpu_counts_is_legible(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the narrow sheet, level numbers ran into each other."""
    here = {"peak_tflops": 0.2, "gpus_per_node": 32}
    block = {"cluster": "here", "model": "tiny", "gpus": [*range(1, 17)]}
    grid = make_grid({"clusters": {"here": here}, "grid": [block]})
    for cell in grid:
        write_run(cell, step_s=0.01)
    drawn = figures_of(monkeypatch)
    plot_tables(grid, throughput_table(grid), tmp_path)
    for figure in drawn["mfu"]:
        FigureCanvasAgg(figure).draw()
        (ax,) = figure.axes
        for texts in (ax.texts, ax.get_xticklabels()):
            boxes = [text.get_window_extent() for text in texts]
            assert len(boxes) == 16
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_numbers_beside_bars_are_clear_of_long_names(
    make_grid: MakeGrid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    middle = "says-in-its-name-what-it-changes-and-by-how-much-and-why-that-is"
    variants = {
        f"a-variant-which-as-always-{n}-{middle}-{n}": {"data": {"batch_size": n}} for n in (2, 4)
    }
    model = "a-model-with-a-name-of-many-words"
    block = {"cluster": "here", "model": model, "gpus": 1, "variant": ["base", *variants]}
    shape = {"dim": 64, "n_layers": 2, "n_heads": 2}
    grid = make_grid({"models": {model: shape}, "variants": variants, "grid": [block]})
    for cell in grid:
        write_run(cell)
    drawn = figures_of(monkeypatch)
    plot_tables(grid, throughput_table(grid), tmp_path)
    for figure in drawn["variants"]:
        FigureCanvasAgg(figure).draw()
        (ax,) = figure.axes
        left = ax.get_window_extent().x0
        assert [text.get_text() for text in ax.texts] == ["x0.25", "x0.5"]
        assert all(text.get_window_extent().x0 > left for text in ax.texts)
        assert texts_beyond(figure) == []
