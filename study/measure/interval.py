"""How large a difference of means may be where nothing differs: Student's t, from repeated runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from study.measure.noise import Noise, noise_within

CONFIDENCE = 0.95
"""That no difference is found where there is none."""

LARGEST_FACTOR = 10.0
"""Most standard errors in half an interval that is of any use. One degree of freedom takes 13, two
take more for over five cells: so few repetitions do not tell the noise."""


@dataclass(frozen=True)
class Width:
    """Half the width of the interval of no difference."""

    half: float
    degrees: int
    """Degrees of freedom of the noise that it follows from; 0 if that is assumed."""


def width_of_runs(
    noise: Noise | None, level: float, runs: Sequence[Sequence[object]], cells: int = 1
) -> Width | None:
    """Return the width for a difference of means, or for its mean over cells; None if not known.

    `runs` are those of each side, and of each cell.
    """
    if noise is None or noise.factor(level) > LARGEST_FACTOR:
        return None
    return Width(noise.factor(level) * noise.deviation * _share(runs, cells), noise.degrees)


def assumed_width(
    deviation: float, level: float, runs: Sequence[Sequence[object]], cells: int = 1
) -> Width:
    """Return the width at an assumed deviation of a run."""
    return Width(NormalDist().inv_cdf(0.5 + level / 2) * deviation * _share(runs, cells), 0)


def width_of_mean(
    noise: Noise | None, runs: Sequence[Sequence[object]], differences: Sequence[float]
) -> Width | None:
    """Return the width for the mean of several cells' differences.

    It follows from the spread of repeated runs and from how far the differences are apart, the
    wider of the two: a busy machine or a mixed effect is not in the spread of seeds.
    """
    within = width_of_runs(noise, CONFIDENCE, runs, len(differences))
    between = width_of_runs(noise_within([differences]), CONFIDENCE, [differences])
    widths = [width for width in (within, between) if width is not None]
    return max(widths, key=lambda width: width.half, default=None)


def _share(runs: Sequence[Sequence[object]], cells: int) -> float:
    """Return the standard error of a mean difference over the deviation of a run."""
    return math.sqrt(sum(1 / len(side) for side in runs)) / cells
