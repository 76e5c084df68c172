"""Regression of a time on the terms of a physical model, with its uncertainty.

    log y = log f(x) + g(x) + noise,    f = (sum_G (sum_{k in G} c_k t_k(x))^p)^(1/p),    c_k > 0

G are groups of terms that run at the same time, so that the longest nearly hides the others; with
one group, f is the sum of its terms. The coefficients have log-normal priors, so that none is
negative and each stays in its plausible range while data are few; g, the part that the terms leave
out, is a Gaussian process over the positions, so that a prediction near a measurement follows it.
The coefficients are fitted by Gauss-Newton, in relative error, and their uncertainty is propagated
by linearisation (Rasmussen and Williams 2006, section 2.7: explicit basis functions with a prior).
"""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

PROCESS_SDS = (0.03, 0.06, 0.12, 0.24)
"""Candidates for the standard deviation of g, in log time."""

FEW, FEW_PROCESS_SD = 8, 0.12
"""With fewer measurements than this, the evidence cannot tell that g is smaller than this, or that
it is alike over long distances."""

NOISE_SDS = (0.01, 0.02, 0.04, 0.08, 0.16)
"""Candidates for the standard deviation of the noise of step times, in log time."""

LENGTH_SCALES = (1.4, 2.8)
"""Candidates for the length scale of g: e**1.4 is a factor of about 4 in size."""

USUAL_PROCESS_SD, USUAL_NOISE_SD = 0.06, 0.03
"""Medians of the log-normal priors of the standard deviations; one sd is a factor of 2."""

Z80 = 1.2815515594457831
"""Half width of the central 80% of a normal distribution, in standard deviations."""

OVERLAP = 4.0
"""The exponent p: two equal groups take 1.19 times as long as one of them; if one takes half as
long as the other, it adds 1.5%."""

CONVERGED = 1e-4
"""Change of the logarithms of the coefficients at which the fit ends."""

NEAR = 0.1
"""Change of the logarithms of the coefficients within which the model is taken as linear."""

TRUSTED = 12
"""Weight of the model's own interval width in the calibration, in measurements."""


@dataclass(frozen=True)
class Prior:
    """A log-normal prior of a coefficient."""

    median: float
    factor: float
    """The standard deviation of the logarithm is the logarithm of this."""
    group: int = 0
    """Terms of different groups run at the same time."""


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters of the Gaussian process and the noise, in log time."""

    process_sd: float
    noise_sd: float
    length_scale: float


@dataclass(frozen=True)
class Points:
    """Inputs of measurements or predictions."""

    terms: np.ndarray
    """(points, terms), each at least 0."""
    positions: np.ndarray
    """(points, coordinates)."""
    kinds: Sequence[str]
    """A different kind counts as a difference of 1 in one coordinate."""


class Regression:
    """A regression, fitted once; it predicts at any points."""

    def __init__(
        self,
        priors: Sequence[Prior],
        points: Points,
        values: np.ndarray,
        offset_factor: float = 1.0,
        usual_noise_sd: float = USUAL_NOISE_SD,
    ) -> None:
        """Fit to `values` (points,), each positive; without points, predictions follow the priors.

        `offset_factor` is the prior's factor for an error that all values share; `usual_noise_sd`
        is the prior's median of the noise, and scales its candidates.
        """
        self._center = np.log([prior.median for prior in priors])
        self._widths = np.log([prior.factor for prior in priors])
        groups = np.array([prior.group for prior in priors])
        self._member = (groups[:, None] == np.unique(groups)[None]).astype(float)
        self._points, self._values = points, np.log(values)
        self._offset = math.log(offset_factor) ** 2
        self._usual_noise_sd = usual_noise_sd
        self._refit(_candidates(len(values), usual_noise_sd))

    @property
    def coefficients(self) -> np.ndarray:
        """The fitted coefficients, (terms,)."""
        return np.exp(self._log_c)

    def predict(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return median and standard deviation of the logarithm of a new measurement, (points,)."""
        shape, log_f = self._linearise(points, self._log_c)
        cross = self._covariance(points, self._points, shape, self._shape)
        mean = log_f + shape @ (self._center - self._log_c) + cross @ self._weights
        own = self._prior_variance(points, shape)
        explained = np.einsum("ij,ij->i", cross @ self._inverse, cross)
        variance = np.maximum(own - explained, 0.0) + self.hyper.noise_sd**2
        return mean, self.scale * np.sqrt(variance)

    def without(self, left_out: Sequence[int]) -> "Regression":
        """Return the regression without some of its points, by their positions.

        The hyperparameters stay. Unless the coefficients move far, the linearisation stays too, and
        nothing is fitted again (Rasmussen and Williams 2006, section 5.4.2, for a set of points).
        """
        gone = np.array(left_out, dtype=int)
        kept = np.setdiff1d(np.arange(len(self._values)), gone)
        rest, out = self._inverse[np.ix_(kept, kept)], self._inverse[np.ix_(kept, gone)]
        other = copy(self)
        other._points = Points(
            self._points.terms[kept],
            self._points.positions[kept],
            [self._points.kinds[index] for index in kept],
        )
        other._values, other._shape = self._values[kept], self._shape[kept]
        other._residual = self._residual[kept]
        other._inverse = rest - out @ np.linalg.solve(self._inverse[np.ix_(gone, gone)], out.T)
        other._weights = other._inverse @ other._residual
        moved = self._center + self._widths**2 * (other._shape.T @ other._weights) - self._log_c
        if np.abs(moved).max() > NEAR:
            other._refit([self.hyper])
        other.scale = other._calibrate()
        return other

    def narrowing(self, points: Points) -> np.ndarray:
        """Return by how much measuring each point would lower the total variance at all of them.

        (points,): in squared log time. It does not depend on the measured values.
        """
        shape, _ = self._linearise(points, self._log_c)
        known = self._covariance(points, self._points, shape, self._shape)
        joint = self._covariance(points, points, shape, shape) - known @ self._inverse @ known.T
        return (joint**2).sum(1) / (joint.diagonal() + self.hyper.noise_sd**2)

    def _refit(self, candidates: Sequence[Hyper]) -> None:
        self.hyper, self._log_c = self._choose(candidates)
        self._condition()

    def _choose(self, candidates: Sequence[Hyper]) -> tuple[Hyper, np.ndarray]:
        """Return the hyperparameters, and the log coefficients with them.

        The mean over the candidates, of variances and of the logarithm of the length scale, each
        weighted by its evidence: a few measurements say little about how far others will be off, so
        that the single best candidate would often be too sure.
        """
        fits = self._fit_all(candidates)
        if len(candidates) == 1:
            return candidates[0], fits[0][1]
        evidence = [
            fit + _log_prior(hyper, self._usual_noise_sd)
            for hyper, (fit, _) in zip(candidates, fits, strict=True)
        ]
        weights = np.exp(np.array(evidence) - max(evidence))
        weights /= weights.sum()
        process, noise, length = (
            np.array([getattr(hyper, name) for hyper in candidates])
            for name in ("process_sd", "noise_sd", "length_scale")
        )
        mean = Hyper(
            math.sqrt(weights @ process**2),
            math.sqrt(weights @ noise**2),
            math.exp(weights @ np.log(length)),
        )
        return mean, self._fit_all([mean])[0][1]

    def _fit_all(self, candidates: Sequence[Hyper]) -> list[tuple[float, np.ndarray]]:
        """Return the log marginal likelihood and the log coefficients with each candidate.

        In the eigenvectors of the kernel, which depend only on its length scale, the covariance of
        process and noise is diagonal. An offset is one more coefficient, the last.
        """
        spectra = {
            length_scale: np.linalg.eigh(_similarity(self._points, self._points, length_scale))
            for length_scale in {hyper.length_scale for hyper in candidates}
        }
        fits, start = [], self._center
        for hyper in candidates:
            eigen, vectors = spectra[hyper.length_scale]
            variances = hyper.process_sd**2 * np.maximum(eigen, 0.0) + hyper.noise_sd**2
            fits.append(self._fit(variances, vectors, start))
            start = fits[-1][1]
        return fits

    def _fit(
        self, variances: np.ndarray, vectors: np.ndarray, start: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return the log marginal likelihood, up to a constant of the priors, and the log
        coefficients, from those of `start`.

        variances: of process and noise along the eigenvectors, (points,).
        """
        widths = np.append(self._widths, math.sqrt(self._offset)) if self._offset else self._widths
        terms = len(start)
        fitted = np.zeros(len(widths))  # relative to the prior's center
        fitted[:terms] = start - self._center

        def linearised() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            """Return the residual from the prior's center, as the model is linear around the
            present fit, the shares of the terms over the variances, and their precision."""
            shape, residual = self._rotated(vectors, self._center + fitted[:terms])
            residual += shape[:, :terms] @ fitted[:terms]
            weighted = shape / variances[:, None]
            return residual, weighted, weighted.T @ shape + np.diag(widths**-2)

        for _ in range(50):
            residual, weighted, precision = linearised()
            step = np.linalg.solve(precision, weighted.T @ residual) - fitted
            # The linearisation overshoots far from the optimum.
            step[:terms] /= max(1.0, float(np.abs(step[:terms]).max()))
            fitted = fitted + step
            if np.abs(step).max() < CONVERGED:
                break
        residual, weighted, precision = linearised()
        explained = weighted.T @ residual
        square = residual @ (residual / variances)
        square -= explained @ np.linalg.solve(precision, explained)
        log_determinant = np.log(variances).sum() + np.linalg.slogdet(precision)[1]
        return -0.5 * float(square + log_determinant), self._center + fitted[:terms]

    def _rotated(self, vectors: np.ndarray, log_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the shares of the terms (with the offset's) and the residuals, along `vectors`."""
        shape, log_f = self._linearise(self._points, log_c)
        if self._offset:
            shape = np.column_stack([shape, np.ones(len(shape))])
        return vectors.T @ shape, vectors.T @ (self._values - log_f)

    def _condition(self) -> None:
        """Compute what predictions need from the measured points."""
        self._shape, log_f = self._linearise(self._points, self._log_c)
        total = self._covariance(self._points, self._points, self._shape, self._shape)
        total += self.hyper.noise_sd**2 * np.eye(len(self._values))
        self._inverse = np.linalg.inv(total)
        self._residual = self._values - log_f - self._shape @ (self._center - self._log_c)
        self._weights = self._inverse @ self._residual
        self.scale = self._calibrate()

    def _calibrate(self) -> float:
        """Return the factor on standard deviations from leave-one-out prediction.

        Each measurement is predicted from the others (Rasmussen and Williams 2006, equations 5.10
        to 5.12); 80% of the errors should lie within 1.28 standard deviations. Since few errors are
        weak evidence, the model's own width has the weight of `TRUSTED` measurements. It is never
        reduced: cells that were chosen together resemble each other more than those to come.
        """
        count = len(self._values)
        if count < 3:
            return 1.0
        errors = np.abs(self._weights) / np.sqrt(np.diag(self._inverse))
        found = float(np.quantile(errors, 0.8)) / Z80
        return math.exp(count * math.log(max(found, 1.0)) / (count + TRUSTED))

    def _linearise(self, points: Points, log_c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the share of each term, d log f / d log c (points, terms), and log f (points,)."""
        parts = points.terms * np.exp(log_c)
        groups = parts @ self._member
        longest = groups.max(1, initial=0.0)
        powers = ((groups / longest[:, None]) ** OVERLAP).sum(1)
        whole = longest * powers ** (1 / OVERLAP)
        slopes = (groups / whole[:, None]) ** (OVERLAP - 1)
        return parts / whole[:, None] * (slopes @ self._member.T), np.log(whole)

    def _covariance(self, a: Points, b: Points, at: np.ndarray, bt: np.ndarray) -> np.ndarray:
        return (at * self._widths**2) @ bt.T + self._kernel(a, b) + self._offset

    def _prior_variance(self, points: Points, shape: np.ndarray) -> np.ndarray:
        return (shape**2 * self._widths**2).sum(1) + self.hyper.process_sd**2 + self._offset

    def _kernel(self, a: Points, b: Points) -> np.ndarray:
        """Return the covariance of g, (points of a, points of b)."""
        return self.hyper.process_sd**2 * _similarity(a, b, self.hyper.length_scale)


def _similarity(a: Points, b: Points, length_scale: float) -> np.ndarray:
    """Return the squared-exponential correlation of g, (points of a, points of b)."""
    apart = (np.array(a.kinds)[:, None] != np.array(b.kinds)[None]).astype(float)
    for one, other in zip(a.positions.T, b.positions.T, strict=True):
        apart += (one[:, None] - other[None]) ** 2
    return np.exp(-0.5 * apart / length_scale**2)


def _log_prior(hyper: Hyper, usual_noise_sd: float) -> float:
    """Return the logarithm of the prior density of the standard deviations."""
    pairs = ((hyper.process_sd, USUAL_PROCESS_SD), (hyper.noise_sd, usual_noise_sd))
    return -0.5 * sum((math.log(value / usual) / math.log(2)) ** 2 for value, usual in pairs)


def _candidates(count: int, usual_noise_sd: float) -> list[Hyper]:
    """Return the hyperparameters to choose from; a single measurement cannot choose between any."""
    if count < 2:
        return [Hyper(0.12, usual_noise_sd, LENGTH_SCALES[0])]
    few = count < FEW
    sds = [sd for sd in PROCESS_SDS if not few or sd >= FEW_PROCESS_SD]
    lengths = LENGTH_SCALES[:1] if few else LENGTH_SCALES
    noises = [sd * usual_noise_sd / USUAL_NOISE_SD for sd in NOISE_SDS]
    return [Hyper(s, n, r) for s in sds for n in noises for r in lengths]
