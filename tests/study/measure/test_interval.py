"""Widths of intervals of no difference, with published quantiles of Student's t."""

import math

import pytest

from study.measure.interval import Width, assumed_width, width_of_mean, width_of_runs
from study.measure.noise import Noise

TWO = [[0, 0], [0, 0]]
"""Two runs on each side: the difference of their means has the deviation of one run."""


@pytest.mark.parametrize(
    ("degrees", "level", "quantile"),
    [
        pytest.param(2, 0.99, 9.9248, id="five cells at 95% together"),
        pytest.param(2, 1 - 0.05 / 6, None, id="six"),
        pytest.param(1, 0.95, None, id="one degree of freedom"),
        pytest.param(10, 0.95, 2.2281, id="ten"),
    ],
)
def test_too_few_repetitions_give_no_width(
    degrees: int, level: float, quantile: float | None
) -> None:
    width = width_of_runs(Noise(0.1, degrees), level, TWO)
    expected = None if quantile is None else Width(pytest.approx(0.1 * quantile, 1e-4), degrees)
    assert width == expected
    assert width_of_runs(None, level, TWO) is None


def test_the_standard_error_of_a_difference() -> None:
    """Of three runs and one: sqrt(1/3 + 1); of two cells' mean, half the root of the sum."""
    assert assumed_width(0.1, 0.95, [[0] * 3, [0]]).half == pytest.approx(
        1.959964 * 0.1 * math.sqrt(4 / 3), 1e-6
    )
    assert assumed_width(0.1, 0.95, [*TWO, *TWO], cells=2).half == pytest.approx(
        1.959964 * 0.1 * math.sqrt(2) / 2, 1e-6
    )


def test_of_several_cells_the_wider_of_two_widths_counts() -> None:
    """Three differences of -1, 0 and 1 have a deviation of 1; their mean 4.3027 / sqrt(3)."""
    between = Width(pytest.approx(4.3027 / math.sqrt(3), 1e-4), 2)
    differences = [-1.0, 0.0, 1.0]
    quiet, loud = Noise(0.1, 10), Noise(10.0, 10)
    runs = TWO * 3
    assert width_of_mean(quiet, runs, differences) == between
    assert width_of_mean(None, runs, differences) == between
    within = 2.2281 * 10 * math.sqrt(3) / 3
    assert width_of_mean(loud, runs, differences) == Width(pytest.approx(within, 1e-4), 10)
    assert width_of_mean(quiet, TWO, [0.5]) == width_of_runs(quiet, 0.95, TWO)
    assert width_of_mean(None, TWO, [0.5]) is None
