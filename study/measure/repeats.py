"""How much runs of one configuration differ, from those that were repeated with other seeds."""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

BETWEEN_RUNS = 0.02
"""Spread of the step time between runs of a configuration if none was repeated, relative."""


def relative_spread(repeated: Iterable[Sequence[float]], usual: float = BETWEEN_RUNS) -> float:
    """Return the standard deviation of a run's step time, speed or other time, relative.

    `repeated` has the values of each configuration. The spread is that of all repeated runs, with
    `usual` counting as one pair.
    """
    square, degrees = pooled([math.log(value) for value in values] for values in repeated)
    return math.sqrt((square + usual**2) / (degrees + 1))


def pooled(repeated: Iterable[Sequence[float]]) -> tuple[float, int]:
    """Return the sum of the squared deviations from each group's mean, and degrees of freedom."""
    square, degrees = 0.0, 0
    for values in repeated:
        if values:
            center = fmean(values)
            square += sum((value - center) ** 2 for value in values)
            degrees += len(values) - 1
    return square, degrees
