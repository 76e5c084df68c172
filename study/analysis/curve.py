"""A curve through losses, and where its minimum lies within the scatter of the runs."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial

from study.analysis.series import FEWEST
from study.measure.noise import Noise

LEVEL = 0.8
"""Probability of the intervals, as everywhere in a study but in the ablations."""

FOR_CUBIC = 5
"""Places from which on a curve is a cubic. The loss rises faster above the best rate than below,
and on one side of the best size, which moves the minimum of a parabola by more than its interval.
Of four places, a cubic would leave no scatter."""

EXACT = 1e-6
"""Half width of an interval that is as good to first order: rounding would hide its ends."""


@dataclass(frozen=True)
class Curve:
    """A least-squares fit of y = c0 + c1 u + c2 u^2 or, of a cubic, + c3 u^3; u = x - center."""

    center: float
    coefficients: tuple[float, ...]
    inverse: np.ndarray
    """(X'X)^-1: covariance of the coefficients over the variance of y."""
    squares: float
    """Sum of the squared residuals."""
    points: int
    """Number of runs."""
    places: int
    """Number of different x."""
    low: float
    """Smallest x."""
    high: float
    """Largest x."""

    @property
    def degrees(self) -> int:
        """Degrees of freedom of the residuals."""
        return self.points - len(self.coefficients)

    def __call__(self, x: float) -> float:
        """Return y."""
        return float(Polynomial(self.coefficients)(x - self.center))

    def bend(self, x: float) -> float:
        """Return the second derivative."""
        return float(Polynomial(self.coefficients).deriv(2)(x - self.center))

    @property
    def minimum(self) -> float | None:
        """The x of the lowest y; None if it is not between those of the runs."""
        u = self._lowest
        x = None if u is None else self.center + u
        return x if x is not None and self.low <= x <= self.high else None

    @property
    def _lowest(self) -> float | None:
        """The u with slope 0 and an upward bend, wherever it is."""
        _, slope, bend, third = (*self.coefficients, 0.0)[:4]
        square = bend**2 - 3 * slope * third
        # The root of 3 third u^2 + 2 bend u + slope that a parabola has, too.
        across = bend + math.sqrt(max(0.0, square))
        return -slope / across if square > 0 and across else None

    def interval(self, noise: Noise, level: float = LEVEL) -> tuple[float, float] | None:
        """Return where the minimum lies: every x around it where the slope may be 0 within the
        noise.

        Fieller 1954, "Some problems in interval estimation", section 2: of a parabola exact for
        normal noise. None if the noise leaves open whether there is a minimum.
        """
        u = self._lowest
        if u is None:
            return None
        first_order = noise.factor(level) * self._error(u, noise)
        if first_order < EXACT:
            return self.center + u - first_order, self.center + u + first_order
        slope = Polynomial(self.coefficients).deriv()
        share = (noise.factor(level) * noise.deviation) ** 2
        roots = (slope**2 - share * self._slope_variance).roots()
        ends = roots.real[np.isreal(roots)]
        if not (ends.min(initial=u) < u < ends.max(initial=u)):
            return None
        low, high = float(ends[ends < u].max()), float(ends[ends > u].min())
        if min(self.bend(self.center + low), self.bend(self.center + high)) <= 0:
            return None
        return self.center + low, self.center + high

    def minimum_error(self, noise: Noise) -> float:
        """Return the standard error of the minimum, to first order in the noise."""
        assert self._lowest is not None
        return self._error(self._lowest, noise)

    def _error(self, u: float, noise: Noise) -> float:
        variance = max(0.0, float(self._slope_variance(u)))
        return noise.deviation * math.sqrt(variance) / self.bend(self.center + u)

    @property
    def _slope_variance(self) -> Polynomial:
        """The variance of the slope over that of y, in u."""
        count = len(self.coefficients)
        found = np.zeros(2 * count - 3)
        for i, j in itertools.product(range(1, count), repeat=2):
            found[i + j - 2] += i * j * self.inverse[i, j]
        return Polynomial(found)


def fit_curve(x: Sequence[float], y: Sequence[float], order: int | None = None) -> Curve | None:
    """Return the curve through points, by default a parabola or, from `FOR_CUBIC` different x on, a
    cubic; None if they are at fewer different x than it has coefficients."""
    order = order or (3 if len(set(x)) >= FOR_CUBIC else 2)
    if len(set(x)) <= order:
        return None
    at, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    center = float(at.mean())
    table = np.vander(at - center, order + 1, increasing=True)
    coefficients = np.linalg.lstsq(table, values, rcond=None)[0]
    squares = float(((values - table @ coefficients) ** 2).sum())
    inverse = np.linalg.inv(table.T @ table)
    ends = float(at.min()), float(at.max())
    return Curve(
        center, tuple(coefficients.tolist()), inverse, squares, len(values), len(set(x)), *ends
    )


def tell_places(curve: Curve | None, total: int, noun: str) -> str:
    """Return a note if a curve is through some of the places with a loss only; else empty."""
    if curve is None or curve.places == total:
        return ""
    name = "parabola" if len(curve.coefficients) == 3 else "cubic"
    return f"{name} through {curve.places} of {total} {noun}"


def pooled_noise(curves: Sequence[Curve]) -> Noise | None:
    """Return the scatter around several curves; None if they pass through all points."""
    degrees, square = (sum(getattr(c, name) for c in curves) for name in ("degrees", "squares"))
    return Noise(math.sqrt(square / degrees), degrees) if degrees and square else None


def near_lowest(x: Sequence[float], y: Sequence[float], factor: float) -> list[int]:
    """Return the indices of the points within a factor of the x > 0 with the lowest mean y, and of
    those next to it on either side.

    If these are at fewer than three different x, those of the three nearest. Farther away a loss is
    no parabola, which would move its minimum; but without a point on each side it would have none.
    """
    places: dict[float, list[float]] = {}
    for at, value in zip(x, y, strict=True):
        places.setdefault(at, []).append(value)
    if not places:
        return []
    best = min(places, key=lambda at: sum(places[at]) / len(places[at]))
    distance = {at: abs(math.log(at / best)) for at in places}
    nearest = sorted(places, key=lambda at: (distance[at], at))
    near = {at for at in places if distance[at] <= math.log(factor) * (1 + 1e-9)}
    ordered = sorted(places)
    at_best = ordered.index(best)
    near |= {*ordered[max(0, at_best - 1) : at_best + 2]}
    if len(near) < FEWEST:
        near |= set(nearest[:FEWEST])
    return [index for index, at in enumerate(x) if at in near]
