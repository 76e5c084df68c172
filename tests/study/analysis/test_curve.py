"""Curves and their minima, against numbers worked by hand and planted noise."""

import math
from dataclasses import replace

import numpy as np
import pytest

from study.analysis.curve import Curve, fit_curve, near_lowest, pooled_noise
from study.analysis.learning_rate import fit_rates
from study.measure.noise import Noise

# y = 1 - x + x^2 at three places, with two runs 0.1 around it at each.
PLACES = [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]
VALUES = [2.9, 3.1, 0.9, 1.1, 0.9, 1.1]


def test_the_minimum_and_its_interval_are_those_worked_by_hand() -> None:
    """Squares 6 * 0.01 = 0.06 on 6 - 3 degrees of freedom; t(3) at 90% is 1.63774.

    (2x - 1)^2 <= 1.63774^2 * 0.02 * (1/4 + 3x^2), so 3.83907 x^2 - 4x + 0.98659 <= 0.
    """
    parabola = fit_curve(PLACES, VALUES)
    assert parabola is not None
    assert parabola.coefficients == pytest.approx((1.0, -1.0, 1.0))
    assert parabola.minimum == pytest.approx(0.5)
    assert parabola(0.5) == pytest.approx(0.75)
    noise = pooled_noise([parabola])
    assert noise is not None and noise.degrees == 3
    assert noise.deviation == pytest.approx(math.sqrt(0.02))
    assert parabola.interval(noise) == pytest.approx((0.40090, 0.64102), abs=2e-5)
    # Gradient (-1/2, -1/2) of -c1 / (2 c2); variances 0.02 * (1/4, 3/4).
    assert parabola.minimum_error(noise) == pytest.approx(math.sqrt(0.02 * (1 / 16 + 3 / 16)))


def test_intervals_contain_the_minimum_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    hits = found = 0
    for _ in range(1500):
        y = 0.1 * (x - 0.3) ** 2 + random.normal(0, 0.05, 5)
        parabola = fit_curve(x.tolist(), y.tolist(), order=2)
        assert parabola is not None
        noise = pooled_noise([parabola])
        assert noise is not None
        ends = parabola.interval(noise)
        if ends is not None:
            found += 1
            hits += ends[0] <= 0.3 <= ends[1]
    # An interval that is left open contains every place.
    assert (hits + 1500 - found) / 1500 == pytest.approx(0.8, abs=0.035)
    assert found > 1000


@pytest.mark.parametrize(
    ("rates", "noise", "uneven"), [(7, 0.003, 0.5), (5, 0.01, 1.0), (9, 0.01, 0.0)]
)
def test_best_rates_are_inside_although_losses_rise_faster_above_them(
    rates: int, noise: float, uneven: float
) -> None:
    """Loss (e^ku - 1 - ku) / k^2 in u = ln(lr / best), each rate twice the one before.

    Of parabolas, 0%, 4% and 82% of the intervals contained the minimum.
    """
    random = np.random.default_rng(5)
    inside = []
    for _ in range(120):
        best, curves = random.uniform(-0.35, 0.35, 3), []
        places = (np.arange(rates) - rates // 2) * math.log(2)
        for at in best:
            u = places - at
            y = (np.exp(uneven * u) - 1 - uneven * u) / uneven**2 if uneven else u**2 / 2
            losses = 0.1 * y + random.normal(0, noise, rates)
            curves.append(fit_rates(np.exp(places).tolist(), losses.tolist()))
        scatter = pooled_noise([curve for curve in curves if curve is not None])
        assert scatter is not None
        for at, curve in zip(best, curves, strict=True):
            ends = curve.interval(scatter) if curve is not None else None
            inside.append(ends is None or ends[0] <= at <= ends[1])
    assert 0.72 <= np.mean(inside) <= 0.9


def test_the_lowest_place_is_that_with_the_lowest_mean_however_often_it_was_run() -> None:
    """1 was run twice, and 64 is the second lowest: near 1 are 2, and 64 as the third nearest."""
    places, losses = [1.0, 1.0, 2.0, 64.0, 128.0], [2.9, 3.1, 3.5, 3.05, 3.6]
    assert near_lowest(places, losses, 2.0) == [0, 1, 2, 3]


def test_a_cubic_has_its_minimum_beside_its_maximum() -> None:
    """y = u^3 - 3u: the lowest at 1, where y = -2 and y'' = 6, the highest at -1; and mirrored."""
    places = [-2.0, -1.0, 0.0, 1.5, 2.0]
    for sign in (1, -1):
        y = [sign * (u**3 - 3 * u) for u in places]
        cubic = fit_curve(places, y, order=3)
        assert cubic is not None and cubic.degrees == 1
        assert cubic.minimum == pytest.approx(sign)
        assert (cubic(float(sign)), cubic.bend(float(sign))) == pytest.approx((-2.0, 6.0))
        # Of four runs of the same y, none is as low as 1.
        part = [(u, v) for u, v in zip(places, y, strict=True) if sign * u < 1]
        assert len(part) == 3 and fit_curve(*zip(*part, strict=True), order=3) is None
    rising = fit_curve([0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 10.0, 30.0], order=3)  # u^3 + u
    assert rising is not None and rising.minimum is None


def test_the_interval_of_a_cubic_ends_where_its_slope_may_be_zero() -> None:
    """Of slopes within the noise, those of an independent regression in powers of x itself."""
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0])
    y = 0.1 * x**2 + 0.02 * x**3 + np.array([0.01, -0.01, 0.02, 0.0, -0.02, 0.01])
    cubic = fit_curve(x.tolist(), y.tolist(), order=3)
    assert cubic is not None
    noise = Noise(0.03, 2)
    ends = cubic.interval(noise)
    assert ends is not None and ends[0] < (cubic.minimum or 9) < ends[1]
    powers = np.vander(x, 4, increasing=True)
    best, inverse = np.linalg.lstsq(powers, y, rcond=None)[0], np.linalg.inv(powers.T @ powers)

    def beyond(at: float) -> float:
        """How many t(2) at 90%, 1.885618, the slope is from 0."""
        g = np.array([0, 1, 2 * at, 3 * at**2])
        return float(abs(g @ best) / math.sqrt(g @ inverse @ g) / 0.03 / 1.885618)

    assert [beyond(end) for end in ends] == pytest.approx([1, 1], abs=1e-5)
    assert all(beyond(at) < 1 for at in np.linspace(*ends, 50)[1:-1])
    # Of so much noise, the slope may be zero as far as the highest point.
    assert cubic.interval(Noise(0.3, 2)) is None
    # Of this, it may be zero from below the highest to above the lowest, but not far from both:
    # places -10 to 10 leave the slope at 0 a standard error of 1.9, and c3 one of 0.02.
    far = [-10.0, -5.0, 0.0, 5.0, 10.0]
    between = fit_curve(far, [u**3 - 3 * u for u in far], order=3)
    assert between is not None and between.interval(Noise(10.0, 1)) is None
    # Of hardly any, the interval is that to first order.
    error = cubic.minimum_error(Noise(1e-9, 2))
    low, high = cubic.interval(Noise(1e-9, 2)) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(1.885618 * error, rel=1e-4)
    wide = cubic.minimum_error(Noise(1e-4, 2)) * 1.885618
    low, high = cubic.interval(Noise(1e-4, 2)) or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(wide, rel=1e-3)


def test_a_curve_as_flat_as_the_noise_has_no_interval() -> None:
    parabola = fit_curve(PLACES, VALUES)
    assert parabola is not None
    assert parabola.interval(Noise(1.0, 3)) is None


def test_a_minimum_is_between_the_runs() -> None:
    falling = fit_curve([0.0, 1.0, 2.0], [4.0, 1.0, 0.0])  # its vertex is at 2
    beyond = fit_curve([0.0, 1.0, 1.5], [4.0, 1.0, 0.25])
    bent_down = fit_curve([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    assert falling is not None and falling.minimum == pytest.approx(2.0)
    assert beyond is not None and beyond.minimum is None
    assert bent_down is not None and bent_down.minimum is None
    assert pooled_noise([falling, beyond]) is None  # both pass through all their points
    # To the last digit, as of copied runs: that says nothing about how far two runs differ.
    assert pooled_noise([replace(falling, points=6, squares=0.0)]) is None


def test_two_places_are_no_parabola() -> None:
    assert fit_curve([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) is None


def test_places_far_from_the_lowest_are_left_out_unless_they_are_needed() -> None:
    x = [1.0, 2.0, 4.0, 8.0, 64.0]
    assert near_lowest(x, [5.0, 4.0, 3.0, 4.0, 9.0], 5) == [0, 1, 2, 3]
    assert near_lowest(x, [5.0, 4.0, 3.0, 2.0, 1.0], 5) == [2, 3, 4]  # the three nearest
    # The lowest mean counts, not the lowest run.
    assert near_lowest([1.0, 1.0, 9.0, 90.0, 900.0], [0.0, 9.0, 1.0, 2.0, 3.0], 11) == [0, 1, 2, 3]
    # One on each side, however far, also if others are nearer; of equal distances both.
    assert near_lowest([2.0, 5.0, 10.0, 100.0], [3.2, 3.1, 3.0, 3.6], 5) == [0, 1, 2, 3]
    assert near_lowest([1.0, 5.0, 10.0, 100.0], [3.2, 3.1, 3.0, 3.6], 5) == [1, 2, 3]
    assert near_lowest([1.0, 10.0, 100.0], [3.2, 3.0, 3.6], 5) == [0, 1, 2]
    # 1.5e-3 / 3e-4 is 5 and a rounding error.
    assert near_lowest([1.5e-4, 3e-4, 6e-4, 1.5e-3], [3.1, 3.0, 3.1, 3.6], 5) == [0, 1, 2, 3]
    assert near_lowest([], [], 5) == []


@pytest.mark.parametrize("bend", [0.0, -1.0])
def test_what_is_not_bent_upwards_has_no_minimum(bend: float) -> None:
    """A line, or a hill, whatever the noise."""
    curve = Curve(0.0, (2.0, 0.0, bend), np.eye(3), 0.01, 6, 3, -1.0, 1.0)
    assert curve.minimum is None
    assert curve.interval(Noise(1e-6, 3)) is None
