"""Prediction intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from study.estimate.regression import Z80


@dataclass(frozen=True)
class PredictionInterval:
    """A median, with the ends of the central 80%."""

    low: float
    middle: float
    high: float

    def scaled(self, factor: float) -> "PredictionInterval":
        """Return the interval multiplied by a factor."""
        return PredictionInterval(self.low * factor, self.middle * factor, self.high * factor)


def around(middle: float, *sds: float) -> PredictionInterval:
    """Return the interval of a value with independent relative standard deviations; without any, of
    one that is known."""
    width = math.exp(Z80 * math.hypot(*sds))
    return PredictionInterval(middle / width, middle, middle * width)


def add(parts: Sequence[PredictionInterval]) -> PredictionInterval:
    """Return the sum of independent quantities: the squares of their deviations add up."""
    middle = sum(part.middle for part in parts)
    down = math.hypot(*(part.middle - part.low for part in parts))
    up = math.hypot(*(part.high - part.middle for part in parts))
    return PredictionInterval(middle - down, middle, middle + up)
