"""The noise of runs as the tests of differences and the intervals of minima use it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from study.measure.repeats import pooled


@dataclass(frozen=True)
class Noise:
    """How far runs scatter: around a curve, or with other seeds around their mean."""

    deviation: float
    """Standard deviation of a run, in the unit of the values."""
    degrees: int
    """Its degrees of freedom."""

    def factor(self, level: float) -> float:
        """Return the half width of an interval, in standard errors: a quantile of Student's t."""
        return float(stdtrit(self.degrees, 0.5 + level / 2))


def noise_within(repeated: Iterable[Sequence[float]]) -> Noise | None:
    """Return the scatter of the values of each configuration, pooled.

    None if nothing was repeated, or if all repetitions are equal to the last digit: rounded values
    or copies, which do not tell how far two runs differ.
    """
    square, degrees = pooled(repeated)
    return Noise(math.sqrt(square / degrees), degrees) if square else None
