"""Prediction intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PredictionInterval:
    """A median, with the ends of the central 80%."""

    low: float
    middle: float
    high: float

    def scaled(self, factor: float) -> "PredictionInterval":
        """Return the interval multiplied by a factor."""
        return PredictionInterval(self.low * factor, self.middle * factor, self.high * factor)


def add(parts: Sequence[PredictionInterval]) -> PredictionInterval:
    """Return the sum of independent quantities: the squares of their deviations add up."""
    middle = sum(part.middle for part in parts)
    down = math.hypot(*(part.middle - part.low for part in parts))
    up = math.hypot(*(part.high - part.middle for part in parts))
    return PredictionInterval(max(0.0, middle - down), middle, middle + up)
