"""IsoFLOP curves of planted losses: the exponents, their intervals, and gaps."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from study.analysis.isoflop import IsoFlopFit, IsoRun, fit_budgets
from study.law.scaling_law import ScalingLaw
from study.show.plot_analyses import DRAW
from study.show.sheets import SHEETS

PLANTED = ScalingLaw(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28)

BUDGETS = (1e18, 3e18, 1e19, 3e19)


def around(factor: float, count: int) -> Callable[[float], np.ndarray]:
    """Return a function from a budget to sizes around its optimum."""
    steps = factor ** (np.arange(count) - count // 2)
    return lambda flops: PLANTED.optimum(flops)[0] * steps


def fit(
    noise: float,
    seed: int,
    sizes: Callable[[float], np.ndarray],
    seeds: int = 1,
    budgets: Sequence[float] = BUDGETS,
) -> IsoFlopFit:
    random = np.random.default_rng(seed)
    runs = {
        flops: [
            IsoRun(n, flops / 6 / n, PLANTED.loss(n, flops / 6 / n) + random.normal(0, noise))
            for n in sizes(flops)
            for _ in range(seeds)
        ]
        for flops in budgets
    }
    return fit_budgets("base", runs, "validation loss")


def test_planted_exponents_are_found_without_noise() -> None:
    """Hoffmann et al. 2022, equation 4: N grows as C^(b/(a+b)), D as C^(a/(a+b))."""
    result = fit(0.0, 0, around(1.5, 7))
    params, tokens = result.laws
    assert params.exponent == pytest.approx(0.28 / 0.62, abs=1e-4)
    assert tokens.exponent == pytest.approx(0.34 / 0.62, abs=1e-4)
    for curve in result.curves:
        row = curve.row
        optimum = PLANTED.optimum(row.flops)
        # It would move the minimum of a parabola by more than a per cent.
        assert (row.params, row.tokens) == pytest.approx(optimum, rel=1e-3)
        assert row.loss == pytest.approx(PLANTED.loss(*optimum), abs=3e-4)
        assert row.edge is None and row.note == ""
    assert params(1e19) == pytest.approx(PLANTED.optimum(1e19)[0], rel=0.05)


@pytest.mark.parametrize(
    ("noise", "factor", "count", "seeds", "budgets"),
    [
        (0.003, 1.5, 7, 1, BUDGETS),
        (0.01, 2.0, 5, 1, BUDGETS),
        (0.003, 3.0, 3, 2, BUDGETS),  # three sizes: the noise is that of the seeds
        (0.003, 1.5, 7, 1, BUDGETS[:2]),
    ],
)
def test_intervals_contain_the_planted_exponents_as_often_as_they_say(
    noise: float, factor: float, count: int, seeds: int, budgets: Sequence[float]
) -> None:
    fits = [fit(noise, seed, around(factor, count), seeds, budgets) for seed in range(150)]
    drawn = [item.laws for item in fits]
    for index, planted in ((0, 0.28 / 0.62), (1, 0.34 / 0.62)):
        laws = [laws[index] for laws in drawn]
        inside = [
            law.low <= planted <= law.high
            for law in laws
            if law.low is not None and law.high is not None
        ]
        assert len(inside) == 150
        assert 0.7 <= np.mean(inside) <= 0.93  # 80% planned; the deviation of 150 draws is 3%
        exponents = [law.exponent for law in laws]
        assert np.mean(exponents) == pytest.approx(planted, abs=0.01)
    rows = [curve.row for item in fits for curve in item.curves]
    best = [
        row.params_low <= PLANTED.optimum(row.flops)[0] <= row.params_high
        for row in rows
        if row.params_low is not None and row.params_high is not None
    ]
    assert len(best) > 0.99 * len(rows)
    # Parabolas have their minima beside those of the losses.
    assert 0.72 <= np.mean(best) <= 0.88 or count < 5


def test_the_line_through_two_budgets_is_that_worked_by_hand() -> None:
    """Minima at N = 1e6 and 4e6 of budgets 1e12 and 1.6e13: the exponent is ln 4 / ln 16 = 1/2.

    Each budget has 5 runs at u = ln N - ln N* = -1, 0, 1 (twice at the ends), y = u^2 with 0.1
    around it at the ends: squares 4 * 0.01 over 2 degrees, so 0.02 each. v11 = 1/4, as sum u^2 is
    4, so each minimum has the variance 0.02 / (4 * 4); the difference of two has twice that.
    """
    e = np.e
    runs = {
        flops: [
            IsoRun(best * scale, flops / 6 / (best * scale), loss)
            for scale, loss in ((1 / e, 0.9), (1 / e, 1.1), (1.0, 0.0), (e, 0.9), (e, 1.1))
        ]
        for flops, best in ((1e12, 1e6), (1.6e13, 4e6))
    }
    result = fit_budgets("base", runs, "loss")
    params, tokens = result.laws
    assert params.exponent == pytest.approx(0.5)
    assert tokens.exponent == pytest.approx(0.5)
    assert params.coefficient == pytest.approx(1.0)
    assert result.curves[0].row.noise == pytest.approx(np.sqrt(0.02))
    assert result.curves[0].row.degrees == 4
    error = np.sqrt(2 * 0.02 / 16) / np.log(16)
    t = 1.53321  # of 4 degrees of freedom, at 90%
    assert (params.low, params.high) == pytest.approx((0.5 - t * error, 0.5 + t * error), rel=1e-5)


def test_minima_on_a_line_leave_the_interval_that_the_noise_gives() -> None:
    """Three budgets, each with two seeds at three sizes, 0.1 around 2 + u^2.

    The noise is sqrt(0.18 / 9), the error of a minimum half of that over the root of the four
    squares of u, that of the exponent this over sqrt(2) ln 10; t(9) at 90% is 1.383029.
    """
    runs = {
        flops: [
            IsoRun(flops**0.5 * np.exp(u), flops**0.5 / 6 * np.exp(-u), 2 + u**2 + sign * 0.1)
            for u in (-1, 0, 1)
            for sign in (-1, 1)
        ]
        for flops in (1e18, 1e19, 1e20)
    }
    half = np.sqrt(0.02) / 2 / 2 / (np.sqrt(2) * np.log(10)) * 1.383029
    for law in fit_budgets("base", runs, "validation loss").laws:
        assert law.exponent == pytest.approx(0.5)
        assert (law.low, law.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


@pytest.mark.parametrize(
    ("minima", "apart", "half"),
    [
        ((4.0, 4.6, 5.0), (), 0.17769),
        ((4.0, 4.6, 5.0), (-0.1, 0.1), 0.079849),
        ((4.1, 4.4, 4.9, 5.6), (), 0.119257),
        ((4.1, 4.4, 4.9, 5.6), (-0.1, 0.1), 0.085775),
    ],
)
def test_minima_beside_a_line_leave_a_wider_interval(
    minima: tuple[float, ...], apart: tuple[float, ...], half: float
) -> None:
    """At N = 10^4, 10^4.6 and 10^5, of budgets 10 times apart: 1/30, 2/30 and 1/30 beside a line.

    Its slope is 1/2, with the standard error sqrt(6 / 900 / 2) of one degree of freedom; t(1) at
    90% is 3.077684. Seeds that differ by 0.2 leave less, but their noise has 9: 1.383029. Of four,
    each 0.1 beside a line, the error is sqrt(4 / 100 / 2 / 5), and t(2) 1.885618, t(12) 1.356217.
    """
    runs = {}
    for flops, digits in zip((1e12, 1e13, 1e14, 1e15), minima, strict=False):
        sizes = {u: 10**digits * np.exp(u) for u in (-1, 0, 1)}
        runs[flops] = [
            IsoRun(n, flops / 6 / n, 2 + u**2 + more)
            for u, n in sizes.items()
            for more in apart or (0,)
        ]
    for law in fit_budgets("base", runs, "validation loss").laws:
        assert law.exponent == pytest.approx(0.5)
        assert (law.low, law.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-5)
        assert ("scatter of the minima" in law.note) == (not apart)


def test_the_best_tokens_have_the_noise_of_their_own_parabola() -> None:
    """Whole steps move the tokens: losses on a parabola in log N scatter around that in log D."""
    moved = (1.0, 1.02, 0.99, 1.0)
    runs = [
        IsoRun(1e8 * np.exp(u), 1e10 * np.exp(-u) * more, 3 + u**2)
        for u, more in zip((-1.0, -0.4, 0.4, 1.0), moved, strict=True)
    ]
    row = fit_budgets("base", {6e18: runs}, "loss").curves[0].row
    assert row.params_low == pytest.approx(1e8) and row.params_high == pytest.approx(1e8)
    x, y = np.log([run.tokens for run in runs]), np.array([run.loss for run in runs])
    (bend, slope, _), covariance = np.polyfit(x - 23, y, 2, cov=True)
    low, best, high = (
        np.log(row_value) - 23 for row_value in (row.tokens_low, row.tokens, row.tokens_high)
    )
    assert best == pytest.approx(-slope / 2 / bend)
    # At the ends, the slope is t(1) at 90% times its own standard error.
    for end in (low, high):
        g = np.array([2 * end, 1.0])
        error = np.sqrt(g @ covariance[:2, :2] @ g)
        assert abs(2 * bend * end + slope) / error == pytest.approx(3.077684, rel=1e-4)


def test_an_arrow_is_at_the_size_at_the_edge() -> None:
    """As the mean over seeds is lowest there, though the best single run is of the middle size."""
    losses = {4e7: (3.2, 3.2), 8e7: (2.9, 3.4), 1.6e8: (3.0, 3.0)}
    pairs = [(n, loss) for n, both in losses.items() for loss in both]
    runs = {
        1e18: [IsoRun(n, 1e18 / 6 / n, loss) for n, loss in pairs],
        # the other way round, and a budget with a minimum, without which there are no axes
        1e19: [IsoRun(6.4e15 / n, 1e19 / 6 / 6.4e15 * n, loss) for n, loss in pairs],
        1e20: [IsoRun(n, 1e20 / 6 / n, (n / 8e7 - 1) ** 2) for n in losses],
    }
    fit = fit_budgets("base", runs, "loss")
    axes = DRAW["isoflop"]([fit], SHEETS[0]).axes[1]
    arrows = [(line.get_marker(), *line.get_xydata()[0]) for line in axes.lines]
    assert [arrow for arrow in arrows if arrow[0] in ("^", "v")] == [
        ("^", 1e18, 1.6e8),
        ("v", 1e19, 4e7),
    ]


def test_sizes_that_the_parabola_leaves_out_are_told() -> None:
    """The lowest loss is at 8e7; 6.4e8 is a factor of 8 away, beyond 5."""
    sizes = {4e7: 3.1, 8e7: 3.0, 1.6e8: 3.1, 6.4e8: 3.6}
    runs = [IsoRun(n, 1e18 / 6 / n, loss) for n, loss in sizes.items()]
    row = fit_budgets("base", {1e18: runs}, "loss").curves[0].row
    assert row.sizes == 4
    assert row.note.startswith("parabola through 3 of 4 sizes; no interval: three sizes")


def test_a_curve_as_flat_as_the_noise_has_a_minimum_without_an_interval() -> None:
    """Seeds differ by 0.1, the sizes by 0.02."""
    sizes = {4e7: 3.02, 8e7: 3.0, 1.6e8: 3.02}
    runs = [IsoRun(n, 1e18 / 6 / n, y + d) for n, y in sizes.items() for d in (-0.05, 0.05)]
    curve = fit_budgets("base", {1e18: runs}, "loss").curves[0]
    assert (curve.row.params, curve.row.params_low) == (pytest.approx(8e7), None)
    assert curve.row.note == "no interval: the curve is as flat as the noise"
    # a figure draws it all the same
    assert curve.fitted is not None
    assert curve.fitted(np.log(4e7)) == pytest.approx(3.02)


def test_missing_runs_leave_gaps() -> None:
    runs = {
        1e18: [IsoRun(n, 1e18 / 6 / n, PLANTED.loss(n, 1e18 / 6 / n)) for n in (4e7, 8e7, 1.6e8)],
        1e19: [IsoRun(2e8, 8e8, 3.0), IsoRun(3e8, 5e8, 2.9)],
        1e20: [],
    }
    result = fit_budgets("base", runs, "loss")
    one, two, none = (curve.row for curve in result.curves)
    assert one.params is not None and one.params_low is None
    assert one.note == "no interval: three sizes of one seed leave no scatter"
    assert (one.noise, one.degrees) == (None, 0)
    assert two.params is None and two.note == "a curve needs losses of three sizes"
    assert none.runs == 0 and none.params is None
    assert [law.exponent for law in result.laws] == [None, None]
    assert "needs two budgets" in result.laws[0].note
    assert all(row.readable() for row in (one, two, none))


def test_a_minimum_beyond_the_sizes_is_at_the_edge() -> None:
    too_large = around(2.0, 5)
    result = fit(0.0, 0, lambda flops: 32 * too_large(flops))
    assert [curve.row.edge for curve in result.curves] == ["smallest"] * 4
    assert (
        result.curves[0].row.note == "parabola through 3 of 5 sizes; at the edge: the smallest size"
    )
    assert result.laws[0].exponent is None


def test_the_edge_is_where_the_mean_over_seeds_is_lowest() -> None:
    """3.2, 3.15 and 3.0, falling ever faster, though the best single run is of the middle size."""
    losses = {4e7: (3.2, 3.2), 8e7: (2.9, 3.4), 1.6e8: (3.0, 3.0)}
    runs = [IsoRun(n, 1e18 / 6 / n, loss) for n, pair in losses.items() for loss in pair]
    row = fit_budgets("base", {1e18: runs}, "loss").curves[0].row
    assert (row.params, row.edge, row.note) == (None, "largest", "at the edge: the largest size")
