"""A parabola through losses, and where its minimum lies within the scatter of the runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.analysis.series import FEWEST
from study.measure.noise import Noise

LEVEL = 0.8
"""Probability of the intervals, as everywhere in a study but in the ablations."""


@dataclass(frozen=True)
class Parabola:
    """A least-squares fit of y = c0 + c1 u + c2 u^2, with u = x - center."""

    center: float
    coefficients: tuple[float, float, float]
    inverse: np.ndarray
    """(X'X)^-1, (3, 3): covariance of the coefficients over the variance of y."""
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
        return self.points - FEWEST

    def __call__(self, x: float) -> float:
        """Return y."""
        u = x - self.center
        constant, slope, bend = self.coefficients
        return constant + slope * u + bend * u**2

    @property
    def minimum(self) -> float | None:
        """The x of the lowest y; None if it is not between those of the runs."""
        _, slope, bend = self.coefficients
        if bend <= 0:
            return None
        x = self.center - slope / (2 * bend)
        return x if self.low <= x <= self.high else None

    def interval(self, noise: Noise, level: float = LEVEL) -> tuple[float, float] | None:
        """Return where the minimum lies: every x at which the slope may be 0 within the noise.

        Fieller 1954, "Some problems in interval estimation", section 2: exact for normal noise.
        None if the noise leaves open whether there is a minimum.
        """
        _, slope, bend = self.coefficients
        share = (noise.factor(level) * noise.deviation) ** 2
        # (slope + 2 bend u)^2 <= share * (v11 + 4 u v12 + 4 u^2 v22)
        (_, _, _), (_, v11, v12), (_, _, v22) = self.inverse.tolist()
        square = 4 * (bend**2 - share * v22)
        linear = 4 * (slope * bend - share * v12)
        constant = slope**2 - share * v11
        if bend <= 0 or square <= 0:
            return None
        half = math.sqrt(max(0.0, linear**2 - 4 * square * constant)) / (2 * square)
        middle = self.center - linear / (2 * square)
        return middle - half, middle + half

    def minimum_error(self, noise: Noise) -> float:
        """Return the standard error of the minimum, to first order in the noise."""
        _, slope, bend = self.coefficients
        gradient = np.array([0.0, -1 / (2 * bend), slope / (2 * bend**2)])
        return noise.deviation * math.sqrt(float(gradient @ self.inverse @ gradient))


def fit_parabola(x: Sequence[float], y: Sequence[float]) -> Parabola | None:
    """Return the parabola through points; None if they are at fewer than three different x."""
    if len(set(x)) < FEWEST:
        return None
    at, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    center = float(at.mean())
    table = np.stack([np.ones_like(at), at - center, (at - center) ** 2], axis=1)
    coefficients = np.linalg.lstsq(table, values, rcond=None)[0]
    squares = float(((values - table @ coefficients) ** 2).sum())
    inverse = np.linalg.inv(table.T @ table)
    c0, c1, c2 = coefficients.tolist()
    ends = float(at.min()), float(at.max())
    return Parabola(center, (c0, c1, c2), inverse, squares, len(values), len(set(x)), *ends)


def tell_places(parabola: Parabola | None, total: int, noun: str) -> str:
    """Return a note if a parabola is through some of the places with a loss only; else empty."""
    if parabola is None or parabola.places == total:
        return ""
    return f"parabola through {parabola.places} of {total} {noun}"


def pooled_noise(parabolas: Sequence[Parabola]) -> Noise | None:
    """Return the scatter around several parabolas; None if they pass through all points."""
    degrees = sum(parabola.degrees for parabola in parabolas)
    if not degrees:
        return None
    return Noise(math.sqrt(sum(parabola.squares for parabola in parabolas) / degrees), degrees)


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
