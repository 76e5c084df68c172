"""The scaling law: planted coefficients, its optimum, and grids that cannot determine it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from study.__main__ import main
from study.law.scaling_law import (
    ScalingLaw,
    TrainedModel,
    bootstrap,
    find_flat,
    find_missing,
    find_open_exponents,
    fit_law,
    held_out_errors,
    objective,
)
from study.law.scaling_law_table import Fit, read_losses, study_losses, to_markdown
from study.show.forms import FORMS
from tests.study.conftest import MakeGrid, write_run
from tests.study.grids import ONE
from trainer.problems import ConfigError

PLANTED = ScalingLaw(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28)


def planted(noise: float, sizes: int = 6, lengths: int = 5) -> list[TrainedModel]:
    random = np.random.default_rng(0)
    return [
        TrainedModel(f"{n:.0f}", n, d, PLANTED.loss(n, d) * math.exp(random.normal(0, noise)))
        for n in np.geomspace(1e7, 3e9, sizes)
        for d in np.geomspace(2e8, 6e10, lengths)
    ]


def test_planted_coefficients_are_recovered_without_noise() -> None:
    law = fit_law(planted(0.0))
    assert pytest.approx(PLANTED.E, rel=1e-3) == law.E
    assert law.alpha == pytest.approx(PLANTED.alpha, rel=1e-2)
    assert law.beta == pytest.approx(PLANTED.beta, rel=1e-2)
    assert pytest.approx(PLANTED.A, rel=0.1) == law.A
    assert pytest.approx(PLANTED.B, rel=0.1) == law.B


def test_planted_coefficients_are_inside_their_intervals_with_noise() -> None:
    runs = planted(0.005)
    law = fit_law(runs)
    assert objective(law, runs) <= objective(PLANTED, runs)
    laws = bootstrap(runs, law, resamples=40)
    for name in ("E", "A", "B", "alpha", "beta"):
        low, high = np.quantile([getattr(item, name) for item in laws], (0.025, 0.975))
        assert low <= getattr(PLANTED, name) <= high, name
    assert laws[:5] == bootstrap(runs, law, resamples=5)


def test_the_objective_is_quadratic_up_to_a_thousandth() -> None:
    """Losses 0.05% above the law, and 1% below it: half a square, and 1e-3 a unit."""
    expected = PLANTED.loss(1e8, 2e9)
    runs = [TrainedModel("m", 1e8, 2e9, expected * math.exp(off)) for off in (5e-4, -1e-2)]
    assert objective(PLANTED, runs[:1]) == pytest.approx(0.5 * 5e-4**2)
    assert objective(PLANTED, runs) == pytest.approx(0.5 * 5e-4**2 + 1e-3 * (1e-2 - 5e-4))


def test_the_optimum_is_the_lowest_loss_of_its_budget() -> None:
    """Against a search over sizes at 6 N D = 1e21."""
    params, tokens = PLANTED.optimum(1e21)
    assert 6 * params * tokens == pytest.approx(1e21)
    sizes = np.geomspace(1e7, 1e12, 20_001)
    best = min(sizes, key=lambda n: PLANTED.loss(n, 1e21 / 6 / n))
    assert params == pytest.approx(best, rel=2e-3)


def grid(sizes: Sequence[float], lengths: Sequence[float]) -> list[TrainedModel]:
    return [TrainedModel(f"m{n:g}", n, d, PLANTED.loss(n, d)) for n in sizes for d in lengths]


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([], "found 0 model sizes"),
        (grid([1e7, 2e7], [1e9, 2e9, 4e9]), "2 model sizes (1e+07 to 2e+07)"),
        (grid([1e7, 1.1e7, 1.2e7], [1e9, 2e9, 4e9]),
         "3 model sizes (1e+07 to 1.2e+07); expected at least 3, the largest at least 2 times"),
        # each size at a different number of tokens: the effects of N and D cannot be separated
        ([TrainedModel("m", n, 20 * n, PLANTED.loss(n, 20 * n))
          for n in (1e7, 2e7, 4e7, 8e7, 2e8, 4e8)],
         "found at most 1 token counts for one model; expected at least 3: train one, such as m"),
        (grid([1e7], [1e9, 2e9, 4e9]) + grid([2e7, 4e7, 8e7], [1e9]), "at one model size only"),
        # the one with the most so far needs the fewest more
        (grid([1e7, 4e7], [1e9]) + grid([2e7], [1e9, 2e9]), "train one, such as m2e+07, on"),
    ],
)  # fmt: skip
def test_what_a_grid_lacks_is_reported(runs: list[TrainedModel], text: str) -> None:
    assert text in "\n".join(find_missing(runs))


def test_a_complete_grid_lacks_nothing() -> None:
    assert find_missing(grid([1e7, 2e7, 4e7], [1e9, 2e9, 4e9, 8e9])) == []
    # Three lengths of one size, two of another, and seven further sizes.
    sizes = [4e7 * 2**double for double in range(7)]
    few = grid([1e7], [1e9, 1.5e9, 2e9]) + grid([2e7], [1e9, 2e9]) + grid(sizes, [1e9])
    assert find_missing(few) == []


def test_fewer_than_twelve_runs_are_refused() -> None:
    (line,) = find_missing(grid([1e7, 2e7, 4e7], [1e9, 2e9, 4e9]))
    assert "found 9 runs; expected at least 12" in line


def scattered(size: float, tokens: float) -> list[TrainedModel]:
    """16 runs whose loss has scatter of 1% and, if `size` or `tokens` is 1, that effect."""
    random = np.random.default_rng(3)
    return [
        TrainedModel("m", n, d, math.exp(random.normal(0, 0.01)) * (
            2.0 + size * 400 / n**0.34 + tokens * 410 / d**0.28))
        for n in np.geomspace(2.75e7, 1e9, 4)
        for d in np.geomspace(1e9, 3e10, 4)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("size", "tokens", "named"),
    [(0, 0, ["model size", "number of tokens"]), (0, 1, ["model size"]),
     (1, 0, ["number of tokens"]), (1, 1, [])],
)  # fmt: skip
def test_effects_that_the_losses_do_not_show_are_refused(
    size: float, tokens: float, named: list[str]
) -> None:
    found = find_flat(scattered(size, tokens))
    assert len(found) == len(named)
    for line, name in zip(found, named, strict=True):
        assert line.startswith(f"found no effect of the {name} on the loss beyond the scatter")


def test_an_effect_is_clear_from_an_f_statistic_of_20_on() -> None:
    """Of two regressions in powers of ln N and ln D, one of them without those of ln N."""
    random = np.random.default_rng(8)
    n, d = (values.ravel() for values in np.meshgrid([1e7, 3e7, 1e8], [1e9, 2e9, 4e9, 8e9]))
    scatter = random.normal(0, 0.01, 12)
    x, z = np.log(n / 3e7), np.log(d / 3e9)
    without = np.stack([x**0, z, z**2], 1)
    with_size = np.column_stack([without, x, x**2])

    def statistic(effect: float) -> float:
        y = effect * x - 0.2 * z + scatter
        few, all_five = (
            y @ (y - t @ np.linalg.solve(t.T @ t, t.T @ y)) for t in (without, with_size)
        )
        return float((few - all_five) / 2 / (all_five / (12 - 5)))

    low, high = 0.0, 0.5
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if statistic(middle) < 20 else (low, middle)
    for effect, found in ((0.999 * low, 1), (1.001 * high, 0)):
        losses = np.exp(1 + effect * x - 0.2 * z + scatter)
        runs = [TrainedModel("m", *values) for values in zip(n, d, losses, strict=True)]
        assert len(find_flat(runs)) == found


def test_losses_of_noise_are_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "losses.csv"
    rows = [f"{run.params},{run.tokens},{run.loss}" for run in scattered(0, 0)]
    table.write_text("\n".join(["params,tokens,loss", *rows]))
    output = ["--figures", str(tmp_path), "--output", str(tmp_path / "law.csv")]
    assert main(["scaling-law", "--losses", str(table), *output]) == 1
    assert "no effect of the model size" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["losses.csv"]


def test_exponents_that_the_runs_leave_open_are_refused() -> None:
    flat = replace(PLANTED, alpha=1e-3)
    assert find_open_exponents([PLANTED] * 9 + [flat]) == []
    (line,) = find_open_exponents([PLANTED] * 8 + [flat] * 2)
    assert line.startswith("found no finite alpha above 0 in 20% of the resamples")
    steep = replace(PLANTED, beta=3.99)
    (line,) = find_open_exponents([PLANTED] * 8 + [steep] * 2)
    assert line.startswith("found no finite beta above 0 in 20%")


def test_resampled_laws_have_finite_real_optima() -> None:
    """Also of noise, and of resamples that lack a size: exponents are positive and A is not 0."""
    for law in bootstrap(scattered(0, 0)[:6], PLANTED, 4):
        params, tokens = law.optimum(1e21)
        assert 0 < params < math.inf
        assert 0 < tokens < math.inf


def test_a_resample_that_leaves_both_exponents_open_has_an_optimum() -> None:
    """The loss falls with log N five times as fast as with log D, so that all of a budget goes to
    the parameters; mirrored, to the tokens. Of as many resamples, the table has no trace."""
    both = ScalingLaw(E=1.0, A=500.0, B=100.0, alpha=1e-3, beta=1e-3)
    assert both.optimum(6e20) == pytest.approx((1e20, 1.0))
    assert replace(both, A=100.0, B=500.0).optimum(6e20) == pytest.approx((1.0, 1e20))
    resampled = [PLANTED] * 19 + [both]
    assert find_open_exponents(resampled) == []
    runs = grid([1e7, 2e7, 4e7], [1e9, 2e9, 4e9, 8e9])
    optima, without = (
        to_markdown(Fit(runs, PLANTED, laws, "loss")).partition("Compute-optimal models")[2]
        for laws in (resampled, [PLANTED])
    )
    assert optima == without


def test_runs_left_out_are_predicted() -> None:
    """An exact law without noise; then one run, with the most compute, is 10% too high."""
    runs = planted(0.0)
    law = fit_law(runs)
    fifths, most = held_out_errors(runs, law)
    assert (fifths.runs, most.runs) == (30, 6)
    assert fifths.largest_error < 1e-3
    assert most.largest_error < 1e-3
    wrong = [*runs[:-1], replace(runs[-1], loss=1.1 * runs[-1].loss)]
    assert held_out_errors(wrong, law)[1].largest_error == pytest.approx(1 - 1 / 1.1, abs=2e-3)
    # All of the fifth with the most compute are too high: the others know nothing of that.
    by_compute = sorted(runs, key=lambda run: run.flops)
    wrong = [*by_compute[:24], *(replace(run, loss=1.1 * run.loss) for run in by_compute[24:])]
    assert held_out_errors(wrong, law)[1].median_error == pytest.approx(1 - 1 / 1.1, abs=2e-3)


def test_losses_of_a_study(make_grid: MakeGrid) -> None:
    """Validation losses if every run has one; else the median of the last tenth of the steps."""
    study = make_grid({"run": {"steps": 100, "logging": {"freq": 1}}})
    write_run(study[0], loss=lambda step: 5 - step / 100)
    write_run(study[1], status="failed", outcome=None)
    runs, what, settings = study_losses(study)
    assert (what, settings) == ("validation loss", [])
    assert [(run.name, run.loss, run.tokens) for run in runs] == [(study[0].name, 1.6, 51_200)]
    write_run(study[2], loss=lambda step: 4 - step / 100, loss_validation=None)
    runs, what, _ = study_losses(study)
    assert what == "training loss at the end"
    assert [run.loss for run in runs] == pytest.approx([4.045, 3.045])


def test_settings_that_a_law_takes_for_scatter_are_told(make_grid: MakeGrid) -> None:
    """Sizes, lengths and seeds are what a law is of; learning rates are not, once one has run."""
    block = {**ONE, "model": ["tiny", "wide"], "tokens": ["1N", "2N"], "seed": [1, 2]}
    grid = make_grid({"grid": [block, {**ONE, "sweep": {"optim.lr": [1e-3, 1e-2]}}]})
    *alike, low, _ = grid
    for cell in alike:
        write_run(cell)
    assert study_losses(grid)[2] == []
    write_run(low)
    runs, what, settings = study_losses(grid)
    assert settings == ["base", "lr-0.001"]
    text = to_markdown(Fit(runs, PLANTED, [PLANTED], what, settings))
    assert "which the law takes for scatter: base, lr-0.001." in text


def test_a_study_that_cannot_determine_the_law_says_what_is_missing(
    make_grid: MakeGrid, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_grid()
    for cell in study:
        write_run(cell)
    file = tmp_path / "study.yaml"
    file.write_text(study.study.to_yaml())
    output = ["--figures", str(tmp_path), "--output", str(tmp_path / "law.csv")]
    assert main(["scaling-law", "--study", str(file), *output]) == 1
    said = capsys.readouterr().err
    assert "no scaling law can be fitted: found 2 model sizes" in said
    assert "`tokens: [10N, 20N, 40N]`" in said
    assert not (tmp_path / "law.csv").exists()


def test_a_table_of_losses_becomes_a_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.law.scaling_law_table.RESAMPLES", 10)
    table = tmp_path / "losses.csv"
    rows = [f"{run.params},{run.flops},{run.loss}" for run in planted(0.005, 4, 4)]
    table.write_text("\n".join(["params,training_flop,loss", *rows]))
    output = ["--figures", str(tmp_path), "--output", str(tmp_path / "law.csv")]
    assert main(["scaling-law", "--losses", str(table), *output]) == 0
    assert (tmp_path / "law.csv").read_text().splitlines()[
        0
    ] == "name,value,low,high,standard_error"
    assert "Compute-optimal models" in (tmp_path / "law.md").read_text()
    assert {path.name for path in tmp_path.glob("scaling_law*")} == {
        f"scaling_law{form}" for form in FORMS
    }


def test_the_tables_of_a_law_worked_by_hand() -> None:
    """A law that is symmetric in N and D, so that half of a budget's logarithm goes to each, and
    eleven resamples that differ in E alone."""
    law = ScalingLaw(E=1.5, A=100.0, B=100.0, alpha=0.5, beta=0.5)
    sizes = [1.25e5, 2.5e5, 5e5, 1e6]
    runs = [TrainedModel("m", n, d, law.loss(n, d)) for n in sizes for d in sizes]
    resampled = [replace(law, E=1.0 + tenth / 10) for tenth in range(11)]
    text = to_markdown(Fit(runs, law, resampled, "validation loss"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["E", "1.5", "1.1 to 1.9", "0.32"] in rows
    # 2 x 100 / sqrt(1e6), of the largest run; and of a budget 100 times as large
    assert ["6.00e+12", "1M (1M to 1M)", "1M (1M to 1M)", "1.700 (1.300 to 2.100)"] in rows
    assert ["6.00e+14", "10M (10M to 10M)", "10M (10M to 10M)", "1.563 (1.163 to 1.963)"] in rows
    # of the budget that all four sizes share: between the second and the third
    assert ["7.50e+11", "4", "354K", "1.836"] in rows


def test_rows_with_the_highest_loss_can_be_left_out(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text("params,tokens,loss\n1e6,1e8,3\n2e6,1e8,9\n3e6,1e8,2\n")
    assert [run.loss for run in read_losses(table, drop_highest=1)] == [2, 3]
    assert read_losses(table, drop_highest=4) == []


def test_tokens_are_those_of_their_column_before_those_of_the_flops(tmp_path: Path) -> None:
    table = tmp_path / "losses.csv"
    table.write_text("params,training_flop,tokens,loss\n1e6,9e14,1e8,3\n1e6,1.2e15,,2\n")
    assert [run.tokens for run in read_losses(table)] == [2e8, 1e8]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "columns: found none; expected params, loss, and tokens or training_flop"),
        ("params,loss\n1e6,3\n", "columns: found params, loss; expected "),
        ("a" * 100_000 + "\n", f"columns: found {'a' * 60}...; expected "),
        ("<!doctype html>\n<p>404</p>\n", "columns: found <!doctype html>; expected "),
        ("params,tokens,loss\n1e6,many,3\n", "line 2: tokens: 'many'; expected a number above 0"),
        ("params,tokens,loss\n1e6,1e8,3\n1e6,1e8,-1\n", "line 3: loss: '-1'; expected"),
        ("params,tokens,loss\n1e6,1e8,0\n", "line 2: loss: '0'; expected"),
        ("params,tokens,loss\n1e6,1e8\n", "line 2: loss: ''; expected"),
        ("params,tokens,loss\n1e6,0,3\n", "line 2: tokens: '0'; expected"),
        ("params,tokens,loss\n1e6,inf,3\n", "line 2: tokens: 'inf'; expected"),
        ("params,tokens,loss\n1e6,1e8,nan\n", "line 2: loss: 'nan'; expected"),
        ("params,training_flop,loss\n0,1e8,3\n", "line 2: params: '0'; expected"),
        ("params,training_flop,loss\n1,,3\n", "line 2: training_flop: ''; expected"),
    ],
)
def test_a_malformed_table_is_rejected_with_its_row(
    tmp_path: Path, text: str, problem: str
) -> None:
    table = tmp_path / "losses.csv"
    table.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_losses(table)
    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1
