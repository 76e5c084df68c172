"""Parabolas and their minima, against numbers worked by hand and planted noise."""

import math

import numpy as np
import pytest

from study.analysis.parabola import Parabola, fit_parabola, near_lowest, pooled_noise
from study.measure.noise import Noise

# y = 1 - x + x^2 at three places, with two runs 0.1 around it at each.
PLACES = [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]
VALUES = [2.9, 3.1, 0.9, 1.1, 0.9, 1.1]


def test_the_minimum_and_its_interval_are_those_worked_by_hand() -> None:
    """Squares 6 * 0.01 = 0.06 on 6 - 3 degrees of freedom; t(3) at 90% is 1.63774.

    (2x - 1)^2 <= 1.63774^2 * 0.02 * (1/4 + 3x^2), so 3.83907 x^2 - 4x + 0.98659 <= 0.
    """
    parabola = fit_parabola(PLACES, VALUES)
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
        parabola = fit_parabola(
            x.tolist(), (0.1 * (x - 0.3) ** 2 + random.normal(0, 0.05, 5)).tolist()
        )
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


def test_a_curve_as_flat_as_the_noise_has_no_interval() -> None:
    parabola = fit_parabola(PLACES, VALUES)
    assert parabola is not None
    assert parabola.interval(Noise(1.0, 3)) is None


def test_a_minimum_is_between_the_runs() -> None:
    falling = fit_parabola([0.0, 1.0, 2.0], [4.0, 1.0, 0.0])  # its vertex is at 2
    beyond = fit_parabola([0.0, 1.0, 1.5], [4.0, 1.0, 0.25])
    bent_down = fit_parabola([0.0, 1.0, 2.0], [0.0, 1.0, 0.0])
    assert falling is not None and falling.minimum == pytest.approx(2.0)
    assert beyond is not None and beyond.minimum is None
    assert bent_down is not None and bent_down.minimum is None
    assert pooled_noise([falling, beyond]) is None  # both pass through all their points


def test_two_places_are_no_parabola() -> None:
    assert fit_parabola([1.0, 1.0, 2.0], [1.0, 2.0, 3.0]) is None


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
    assert near_lowest([], [], 5) == []


@pytest.mark.parametrize("bend", [0.0, -1.0])
def test_what_is_not_bent_upwards_has_no_minimum(bend: float) -> None:
    """A line, or a hill, whatever the noise."""
    curve = Parabola(0.0, (2.0, 0.0, bend), np.eye(3), 0.01, 6, 3, -1.0, 1.0)
    assert curve.minimum is None
    assert curve.interval(Noise(1e-6, 3)) is None
