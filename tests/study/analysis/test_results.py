"""Learning rates, lengths and ablations of runs with planted losses, as tables, figures, page."""

import base64
import csv
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from study.__main__ import main
from study.analysis.catalogue import analyse, read_tables, write_tables
from study.analysis.learning_rate import RateCurve
from study.analysis.series import find_analyses
from study.grid import Cell, Grid
from study.measure.losses import TRAINING, VALIDATION
from study.measure.noise import noise_within
from study.show.forms import FORMS
from study.show.plot_analyses import plot_analysis
from tests.study.analysis.three_sizes import RATES, SIZES, THREE
from tests.study.conftest import MakeGrid, write_run
from tests.study.grids import ONE
from trainer.problems import ConfigError

TIED = {"variants": {"tied": {"model": {"weight_tying": True}}}}

TWO = {**ONE, "variant": ["base", "tied"]}


def write(grid: Grid, losses: Mapping[str, float | None] | Any) -> None:
    """Write a run with a validation loss for each cell that has one."""
    for cell in grid:
        loss = losses(cell)
        if loss is not None:
            write_run(cell, loss_validation=loss)


def rate_curve(cell: Cell) -> float:
    """A parabola in ln(lr) with its minimum at 2e-3 for tiny, 1e-3 for wide."""
    best = {"tiny": 2e-3, "wide": 1e-3}[cell.model]
    return 2.0 + 0.3 * math.log(cell.run.optim.lr / best) ** 2


def fit(grid: Grid) -> dict[str, RateCurve]:
    (curves,) = analyse(grid).learning_rate
    return {curve.row.model: curve for curve in curves}


def test_planted_best_rates_are_found(make_grid: MakeGrid) -> None:
    block = {**ONE, "model": ["tiny", "wide"], "sweep": {"optim.lr": [5e-4, 1.5e-3, 4e-3]}}
    grid = make_grid({"grid": [block]})
    write(grid, rate_curve)
    curves = fit(grid)
    assert curves["tiny"].row.best_lr == pytest.approx(2e-3)
    assert curves["wide"].row.best_lr == pytest.approx(1e-3)
    assert curves["wide"].row.loss == pytest.approx(2.0)
    assert curves["wide"].row.curvature == pytest.approx(0.6)
    assert curves["wide"].row.note == "no interval: three rates of one seed leave no scatter"
    assert curves["wide"].row.loss_kind == VALIDATION


def test_rates_that_the_parabola_leaves_out_are_told(make_grid: MakeGrid) -> None:
    """The lowest loss is at 2e-3; 3e-4 is a factor of 6.7 away, 1.8e-2 one of 9, beyond 8."""
    rates = [3e-4, 1e-3, 2e-3, 4e-3, 1.8e-2]
    grid = make_grid({"grid": [{**ONE, "sweep": {"optim.lr": rates}}]})
    write(grid, rate_curve)
    row = fit(grid)["tiny"].row
    assert (row.rates, row.note) == (5, "parabola through 4 of 5 rates")
    # One more beside the best: enough for a cubic.
    grid = make_grid({"grid": [{**ONE, "sweep": {"optim.lr": [*rates, 2.1e-3]}}]})
    write(grid, rate_curve)
    assert fit(grid)["tiny"].row.note == "cubic through 5 of 6 rates"


@pytest.mark.parametrize(("rates", "moved"), [(5, False), (4, True)])
def test_five_rates_show_that_the_loss_rises_faster_above_the_best(
    make_grid: MakeGrid, rates: int, moved: bool
) -> None:
    """2 + 0.3 (u^2 + u^3 / 6), so a cubic: the parabola through four rates lies below the best."""
    sweep = {"optim.lr": [1e-3 * 2.0**n for n in range(rates)]}
    grid = make_grid({"grid": [{**ONE, "sweep": sweep}]})

    def loss(cell: Cell) -> float:
        u = math.log(cell.run.optim.lr / 3e-3)
        return 2 + 0.3 * (u**2 + u**3 / 6)

    write(grid, loss)
    row = fit(grid)["tiny"].row
    assert row.best_lr is not None
    assert (row.best_lr < 2.99e-3) == moved
    if not moved:
        assert (row.best_lr, row.loss) == pytest.approx((3e-3, 2.0))
        assert row.curvature == pytest.approx(0.6)
        assert row.degrees == 1


def test_best_rates_that_nearly_agree_have_an_axis_that_tells_numbers_apart(
    make_grid: MakeGrid, tmp_path: Path
) -> None:
    """Minima 0.1% apart: with three digits, every tick between them would read the same."""
    block = {**ONE, "model": ["tiny", "wide"], "sweep": {"optim.lr": [5e-4, 1.5e-3, 4e-3]}}
    grid = make_grid({"grid": [block]})
    best = {"tiny": 2e-3, "wide": 2.002e-3}
    write(grid, lambda c: 2.0 + 0.3 * math.log(c.run.optim.lr / best[c.model]) ** 2)
    plot_analysis("learning_rate", analyse(grid), tmp_path)
    drawing = (tmp_path / "learning_rate.svg").read_text()
    right = re.findall("<!-- (.*) -->", drawing.split('id="axes_2"')[1])
    ticks = [text for text in right if re.fullmatch(r"0\.00\d+", text)]
    assert len(ticks) >= 3 and len(set(ticks)) == len(ticks)
    assert min(map(float, ticks)) < 2e-3 * 0.9 and max(map(float, ticks)) > 2e-3 * 1.1


def test_long_names_keep_to_the_panel_of_rates(make_grid: MakeGrid, tmp_path: Path) -> None:
    names = [f"my-very-long-model-name-with-number-{n}" for n in (1, 2)]
    models = {name: {"dim": 64, "n_layers": 2, "n_heads": 2} for name in names}
    block = {**ONE, "model": names, "sweep": {"optim.lr": [1e-3, 2e-3, 4e-3]}}
    grid = make_grid({"models": models, "grid": [block]})
    write(grid, lambda c: 2.0 + 0.3 * math.log(c.run.optim.lr / 2e-3) ** 2)
    plot_analysis("learning_rate", analyse(grid), tmp_path)
    texts = re.findall("<!-- (.*) -->", (tmp_path / "learning_rate.svg").read_text())
    labels = [text for text in texts if text.startswith("my-very")]
    assert len(labels) == len({*labels}) == 2
    assert max(map(len, labels)) <= 36


def test_intervals_of_best_rates_are_from_the_noise_of_seeds(make_grid: MakeGrid) -> None:
    """Two seeds at each of three rates, 0.1 around y = 1 - x + x^2; see test_curve.py."""
    rates = {"optim.lr": [1e-3 / math.e, 1e-3, 1e-3 * math.e]}
    grid = make_grid({"grid": [{**ONE, "sweep": rates, "seed": [1, 2]}]})

    def loss(cell: Cell) -> float:
        x = math.log(cell.run.optim.lr / 1e-3)
        return 1 - x + x**2 + (0.1 if cell.seed == 1 else -0.1)

    write(grid, loss)
    row = fit(grid)["tiny"].row
    assert (row.noise, row.degrees) == (pytest.approx(math.sqrt(0.02)), 3)
    assert row.best_lr == pytest.approx(1e-3 * math.exp(0.5))
    ends = [1e-3 * math.exp(x) for x in (0.40090, 0.64102)]
    assert (row.low, row.high) == pytest.approx(tuple(ends), rel=2e-5)


def test_a_curve_as_flat_as_the_noise_has_a_best_rate_without_an_interval(
    make_grid: MakeGrid,
) -> None:
    """Seeds differ by 0.1, the rates by 0.02."""
    rates = {"optim.lr": [5e-4, 1e-3, 2e-3]}
    grid = make_grid({"grid": [{**ONE, "sweep": rates, "seed": [1, 2]}]})
    write(grid, lambda cell: 2.0 + 0.02 * (cell.run.optim.lr != 1e-3) + 0.1 * (cell.seed - 1.5))
    row = fit(grid)["tiny"].row
    assert (row.best_lr, row.loss) == pytest.approx((1e-3, 2.0))
    assert (row.low, row.high, row.edge) == (None, None, None)
    assert row.note == "no interval: the curve is as flat as the noise"


def test_a_best_rate_at_the_edge_is_told(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{**ONE, "sweep": RATES}]})
    write(grid, lambda cell: 3.0 - 100 * cell.run.optim.lr)
    row = fit(grid)["tiny"].row
    assert (row.best_lr, row.edge, row.low) == (4e-3, "highest", None)
    assert row.note == "at the edge: the highest rate tried"
    assert row.loss == pytest.approx(2.6)


def test_a_lowest_loss_at_the_edge_is_no_minimum_of_a_curve(make_grid: MakeGrid) -> None:
    """Loss e^u - 1 - u, u = ln(lr / best), where best is 0.7 times the lowest rate: the parabola
    through the losses has its minimum above that rate."""
    rates = [1e-3 * 2**i for i in range(4)]
    grid = make_grid({"grid": [{**ONE, "sweep": {"optim.lr": rates}}]})

    def loss(cell: Cell) -> float:
        u = math.log(cell.run.optim.lr / 0.7e-3)
        return 2.0 + math.exp(u) - 1 - u

    write(grid, loss)
    curve = fit(grid)["tiny"]
    assert curve.fitted is not None and curve.fitted.minimum is not None
    assert curve.fitted.minimum > math.log(1e-3)
    row = curve.row
    assert (row.best_lr, row.edge, row.low) == (1e-3, "lowest", None)


def test_without_a_validation_loss_the_training_loss_is_compared(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{**ONE, "sweep": RATES}]})
    for cell in grid:
        planted = rate_curve(cell)
        validation = None if cell is grid[1] else 9.0
        write_run(cell, loss=lambda step, loss=planted: loss, loss_validation=validation)
    row = fit(grid)["tiny"].row
    assert row.loss_kind == TRAINING
    assert row.best_lr == pytest.approx(2e-3)


def test_differences_are_those_worked_by_hand(make_grid: MakeGrid) -> None:
    """Means 2.1 and 1.8; both groups have the variance 0.01, so s = 0.1 on 4 degrees of freedom,
    the error 0.1 * sqrt(2/3), and t(4) at 97.5% is 2.77645."""
    grid = make_grid({**TIED, "grid": [{**TWO, "seed": [1, 2, 3]}]})
    write(grid, lambda c: (2.1 if c.variant == "base" else 1.8) + 0.1 * (c.seed - 2))
    base, tied = analyse(grid).ablations[0]
    assert (base.change, base.note, base.difference) == ("base", "base", None)
    assert tied.seeds == 3
    assert tied.difference == pytest.approx(-0.3)
    assert (tied.noise, tied.degrees) == (pytest.approx(0.1), 4)
    assert tied.standard_error == pytest.approx(0.081650, abs=1e-6)
    assert (tied.low, tied.high) == pytest.approx((-0.526696, -0.073304), abs=1e-5)
    assert tied.exceeds_noise is True
    write(grid, lambda c: (2.1 if c.variant == "base" else 1.9) + 0.1 * (c.seed - 2))
    assert analyse(grid).ablations[0][1].exceeds_noise is False


def test_changes_without_an_effect_exceed_the_noise_one_time_in_twenty() -> None:
    random = np.random.default_rng(0)
    exceeding = 0
    for _ in range(2000):
        base, changed = random.normal(2.0, 0.1, 3).tolist(), random.normal(2.0, 0.1, 2).tolist()
        noise = noise_within([base, changed])
        assert noise is not None and noise.degrees == 3
        error = noise.deviation * math.sqrt(1 / 3 + 1 / 2)
        exceeding += abs(np.mean(changed) - np.mean(base)) > noise.factor(0.95) * error
    assert exceeding / 2000 == pytest.approx(0.05, abs=0.015)
    assert noise_within([[1.0], [2.0], []]) is None


def test_a_base_without_a_loss_is_told(make_grid: MakeGrid) -> None:
    grid = make_grid({**TIED, "grid": [{**TWO, "seed": [1, 2]}]})
    write(grid, lambda cell: None if cell.variant == "base" else 2.0 + 0.1 * cell.seed)
    base, tied = analyse(grid).ablations[0]
    assert (base.loss, tied.loss) == (None, pytest.approx(2.15))
    assert (tied.difference, tied.exceeds_noise, tied.note) == (None, None, "the base has no loss")


def test_noise_is_borrowed_from_other_sizes_and_said_to_be_unknown(make_grid: MakeGrid) -> None:
    one_seed = make_grid({**TIED, "models": THREE, "grid": [{**TWO, "model": ["tiny", "wide"]}]})
    write(one_seed, lambda cell: 2.0 if cell.variant == "base" else 2.1)
    for row in analyse(one_seed).ablations[0]:
        assert row.standard_error is None and row.exceeds_noise is None
        assert row.change == "base" or row.note == "noise not known: no cell has seeds that differ"
    grid = [{**TWO, "model": ["tiny", "wide"]}, {**TWO, "seed": 43}]
    some = make_grid({**TIED, "models": THREE, "grid": grid})
    write(some, lambda cell: 2.0 + 0.1 * (cell.seed - 42))
    rows = {(row.model, row.change): row for row in analyse(some).ablations[0]}
    wide = rows["wide", "tied"]
    assert wide.note == "noise of the seeds of other sizes"
    assert wide.noise == pytest.approx(0.1 / math.sqrt(2))
    assert rows["tiny", "tied"].note == ""


def test_a_size_with_seeds_of_its_own_has_their_noise(make_grid: MakeGrid) -> None:
    """Two seeds that differ by 0.1 and by 0.4, of two cells each."""
    block = {**TWO, "model": ["tiny", "wide"], "seed": [42, 43]}
    grid = make_grid({**TIED, "models": THREE, "grid": [block]})
    apart = {"tiny": 0.1, "wide": 0.4}
    write(grid, lambda cell: 2.0 + apart[cell.model] * (cell.seed - 42))
    found = {row.model: (row.noise, row.degrees) for row in analyse(grid).ablations[0]}
    root = math.sqrt(2)
    assert found == {
        "tiny": (pytest.approx(0.1 / root), 2), "wide": (pytest.approx(0.4 / root), 2)
    }  # fmt: skip


NORMED = {"sweep": {"model.qk_norm": [True]}}
NOWHERE = {"sweep": {"model.pos_embed": ["none"]}}
BOTH = {"sweep": {"model.qk_norm": [True], "model.pos_embed": ["none"]}}


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param(
            [{"variant": ["tied", "base"]}],
            ["base", "tied"],
            id="without changes, wherever it is in the grid",
        ),
        pytest.param(
            [{"variant": "tied"}, {"variant": "tied", **NORMED}],
            ["tied", "qk_norm-true"],
            id="the first, and what others have beside it",
        ),
        pytest.param(
            [{"variant": "tied", **NORMED}, {"variant": "tied"}],
            ["tied+qk_norm-true", "tied"],
            id="others have less: all in full",
        ),
        pytest.param(
            [{"variant": "tied", **NORMED}, {"variant": "tied", **NOWHERE}, BOTH],
            ["tied+qk_norm-true", "tied+pos_embed-none", "qk_norm-true+pos_embed-none"],
            id="two would have one name: all in full",
        ),
    ],
)
def test_changes_are_named_by_what_the_base_has_not(
    make_grid: MakeGrid, blocks: list[dict[str, Any]], expected: list[str]
) -> None:
    grid = make_grid({**TIED, "grid": [{**ONE, **block} for block in blocks]})
    write(grid, lambda cell: 2.0)
    rows = analyse(grid).ablations[0]
    assert [row.change for row in rows] == expected
    assert {row.base for row in rows} == {expected[0]}


def test_losses_on_other_text_are_not_compared(make_grid: MakeGrid) -> None:
    variants: dict[str, Any] = {
        "without": {"data": {"sources": {"python_stdlib": 0, "other": 1}}},
        "words": {"data": {"tokenizer": {"name": "tiktoken", "path": "words.model", "n_words": 9}}},
        "more": {"data": {"sources": {"python_stdlib": 2}}},
    }
    grid = make_grid({"variants": variants, "run": {"eval": {}},
                      "grid": [{**ONE, "variant": ["base", *variants]}]})  # fmt: skip
    write(grid, lambda cell: 2.0)
    rows = {row.change: row for row in analyse(grid).ablations[0]}
    assert (
        rows["without"].note == "not comparable: other held-out text; set eval.validation.sources"
    )
    assert rows["words"].note == "not comparable: another tokenizer, so a token is other text"
    assert rows["without"].difference is rows["words"].difference is None
    assert rows["more"].difference == pytest.approx(0)
    for cell in grid:
        write_run(cell, loss_validation=None)
    rows = {row.change: row for row in analyse(grid).ablations[0]}
    assert rows["more"].note == "not comparable: the training losses are of other text; set eval"


def test_a_change_with_other_tokens_has_no_verdict(make_grid: MakeGrid) -> None:
    """Twice the GPUs are twice the batch; a length that both declare is what the study asks."""
    two = {**ONE, "gpus": 2, "variant": "tied", "seed": [1, 2, 3]}
    for length, noted in (({}, True), ({"steps": 40}, True), ({"tokens": "1N"}, False)):
        blocks = [{**ONE, "seed": [1, 2, 3], **length}, {**two, **length}]
        grid = make_grid({**TIED, "grid": blocks})
        write(grid, lambda cell: (2.1 if cell.gpus == 1 else 1.5) + 0.001 * cell.seed)
        tied = analyse(grid).ablations[0][1]
        assert tied.difference == pytest.approx(-0.6)
        base, other = grid[0], grid[-1]
        tokens = [cell.run.steps * cell.tokens_per_step for cell in (base, other)]
        note = f"no verdict: trained on {tokens[1] / tokens[0]:.3g} times the base's tokens"
        assert (tied.note, tied.exceeds_noise) == ((note, None) if noted else ("", True))
        assert (tied.low is None) == noted


def test_rates_of_several_batches_are_told(make_grid: MakeGrid) -> None:
    rates = {"sweep": {"optim.lr": [5e-4, 1.5e-3]}}, {"gpus": 2, "sweep": {"optim.lr": [4e-3]}}
    grid = make_grid({"grid": [{**ONE, **block} for block in rates]})
    write(grid, rate_curve)
    tokens = sorted({cell.tokens_per_step for cell in grid})
    note = f"unlike batches: {tokens[0]:,} and {tokens[1]:,} tokens a step"
    assert note in fit(grid)["tiny"].row.note


def test_a_budget_tells_how_many_of_its_runs_have_a_loss(make_grid: MakeGrid) -> None:
    """Three sizes of two seeds for each of two budgets, of which the first lacks a run."""
    block = {**SIZES, "seed": [1, 2], "flops": [1e11, 2e11]}
    grid = make_grid({"models": THREE, "grid": [block]})
    missing = next(cell for cell in grid if cell.length and cell.length.value == 1e11)
    write(grid, lambda cell: None if cell is missing else 2.0 + 0.1 * cell.seed)
    (found,) = analyse(grid).isoflop
    rows = [curve.row for curve in found.curves]
    assert [(row.flops, row.sizes, row.runs) for row in rows] == [(1e11, 3, 5), (2e11, 3, 6)]
    assert rows[0].note.startswith("5 of 6 runs have a loss; ")
    assert "have a loss" not in rows[1].note


def test_a_source_that_is_left_out_may_be_evaluated_all_the_same(make_grid: MakeGrid) -> None:
    variants = {"without": {"data": {"sources": {"python_stdlib": 0, "other": 1}}}}
    held_out = {"validation": {"sources": ["python_stdlib"]}}
    grid = make_grid({"variants": variants, "run": {"eval": held_out},
                      "grid": [{**ONE, "variant": ["base", "without"]}]})  # fmt: skip
    assert grid.source_names(grid[-1]) == ["other", "python_stdlib"]
    write(grid, lambda cell: 2.0 if cell.variant == "base" else 2.5)
    rows = {row.change: row for row in analyse(grid).ablations[0]}
    assert rows["without"].difference == pytest.approx(0.5)


def test_a_change_is_named_by_what_differs_from_the_base(make_grid: MakeGrid) -> None:
    """Of swept values the first are the base."""
    sweep = {"model.weight_tying": [False, True], "model.rope_theta": [1e4, 5e5]}
    grid = make_grid({"grid": [{**ONE, "sweep": sweep}]})
    write(grid, lambda cell: 2.0)
    base, *others = analyse(grid).ablations[0]
    assert base.change == base.base == "weight_tying-false+rope_theta-10000"
    assert [(row.change, row.base) for row in others] == [
        ("rope_theta-500000", base.change),
        ("weight_tying-true", base.change),
        ("weight_tying-true+rope_theta-500000", base.change),
    ]


def test_changes_that_lack_a_variant_of_the_base_keep_their_names(make_grid: MakeGrid) -> None:
    """Without what the base has, `tied+theta` and `theta` would be one, and a plain one nothing."""
    sweep = {"model.rope_theta": [1e4, 5e5]}
    grid = make_grid({**TIED, "grid": [{**TWO, "variant": ["tied", "base"], "sweep": sweep}]})
    losses = dict(zip((cell.name for cell in grid), (2.0, 2.5, 3.0, 4.0), strict=True))
    write(grid, lambda cell: losses[cell.name])
    base, *others = analyse(grid).ablations[0]
    assert (base.change, base.loss) == ("tied+rope_theta-10000", 2.0)
    assert [(row.change, row.difference) for row in others] == [
        ("tied+rope_theta-500000", pytest.approx(0.5)),
        ("rope_theta-10000", pytest.approx(1.0)),
        ("rope_theta-500000", pytest.approx(2.0)),
    ]


def test_losses_by_tokens_per_parameter(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{**ONE, "tokens": ["2N", "1N"], "seed": [1, 2]}]})
    write(grid, lambda cell: 3.0 - cell.run.steps / 1000 + 0.1 * (cell.seed - 1))
    short, long = analyse(grid).tokens_per_parameter[0]
    assert (short.tokens_per_param, long.tokens_per_param) == pytest.approx((1, 2), rel=0.01)
    assert short.tokens == grid[2].run.steps * grid[2].tokens_per_step
    assert short.loss == pytest.approx(3.05 - grid[2].run.steps / 1000)
    assert short.standard_error == pytest.approx(0.05)  # 0.1 / sqrt(2) / sqrt(2)


def test_lengths_whose_runs_are_missing_say_so(make_grid: MakeGrid) -> None:
    """Of two seeds at each of two lengths, one run."""
    grid = make_grid({"grid": [{**ONE, "tokens": ["2N", "1N"], "seed": [1, 2]}]})
    write_run(grid[2], loss_validation=3.0)
    short, long = analyse(grid).tokens_per_parameter[0]
    assert (short.seeds, short.loss, short.standard_error) == (1, 3.0, None)
    assert short.note == "1 of 2 runs have a loss"
    assert (long.seeds, long.loss, long.note) == (0, None, "no loss yet")


EVERY = {
    "models": THREE,
    **TIED,
    "grid": [
        {**SIZES, "sweep": RATES},
        {**ONE, "tokens": ["1N", "2N"]},
        {**SIZES, "flops": [1e10, 3e10], "seed": [1, 2]},
        {**TWO, "seed": [1, 2, 3]},
    ],
}


def planted(cell: Cell) -> float:
    """A loss that is curved in size, rate and tokens, with a scatter of the seeds."""
    size, rate = math.log(cell.params / 5e5), math.log(cell.run.optim.lr / 2e-3)
    scatter = 0.01 * math.sin(cell.seed * 12.9898 + cell.params)
    return 2 + 0.1 * size**2 + 0.05 * rate**2 + 1 / math.log(cell.run.steps + 9) + scatter


@pytest.mark.parametrize("trained", [0, 5])
def test_missing_runs_leave_gaps_in_every_table_figure_and_section(
    make_grid: MakeGrid, tmp_path: Path, trained: int
) -> None:
    grid = make_grid(EVERY)
    for index, cell in enumerate(grid):
        if index % 7 < trained:
            failed = {"outcome": "diverged"} if index % 7 == 3 else {}
            write_run(cell, loss_validation=planted(cell), **failed)
    study = tmp_path / "study.yaml"
    study.write_text(grid.study.to_yaml())
    folder = tmp_path / "out"
    output = ["--figures", str(folder), "--output-dir", str(folder)]
    assert main(["analyses", "--study", str(study), *output]) == 0
    names = find_analyses(grid)
    assert len(names) == 4
    expected = {f"{name}.{suffix}" for name in names for suffix in ("csv", "md")}
    expected |= {f"{name}{form}" for name in names for form in FORMS}
    assert {path.name for path in folder.iterdir()} == expected | {"isoflop_exponents.csv"}
    assert main(["throughput", "--study", str(study), "--output", str(folder / "t.csv")]) == 0
    measured, times = ["--throughput", str(folder / "t.csv")], str(folder / "e.csv")
    assert main(["estimate", "--study", str(study), *measured, "--output", times]) == 0
    page = folder / "report.html"
    report = ["report", "--study", str(study), *measured, "--estimates", times]
    assert main([*report, "--figures", str(folder), "--output", str(page)]) == 0
    text = page.read_text()
    for title in ("Best learning rate", "IsoFLOP curves", "tokens per parameter", "Ablations"):
        assert f"{title}</h2>" in text
    assert "runs have a loss" in text
    # On a phone each figure is that of one column.
    for name in names:
        for ending, tag in (("", 'img src="'), ("_column", 'srcset="')):
            image = base64.b64encode((folder / f"{name}{ending}.svg").read_bytes()).decode()
            assert f"{tag}data:image/svg+xml;base64,{image}" in text


def test_tables_are_read_back(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(EVERY)
    write(grid, planted)
    results = analyse(grid)
    write_tables("isoflop", results, tmp_path)
    loss, (budgets, laws) = read_tables("isoflop", tmp_path)
    assert loss == VALIDATION
    assert [row[0] for row in budgets[1]] == ["1e10", "3e10"]
    assert [row[0] for row in laws[1]] == ["Parameters N", "Tokens D"]
    with (tmp_path / "isoflop.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["params"]) for row in rows] == pytest.approx([5e5, 5e5], rel=0.3)
    (tmp_path / "isoflop.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="delete it, for Snakemake or `python -m study analyses`"):
        read_tables("isoflop", tmp_path)


def test_equal_runs_give_equal_figures(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(EVERY)
    write(grid, planted)
    first, second = (
        [path.read_bytes() for path in plot_analysis("ablations", analyse(grid), tmp_path / folder)]
        for folder in ("first", "second")
    )
    assert first == second
