"""A scaling law of the loss: L(N, D) = E + A / N^alpha + B / D^beta, fitted to trained models.

Approach 3 of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3:
the Huber loss of log L is minimised by L-BFGS from many starts, in log A, log B and log E.
Intervals are from a bootstrap over the models (Besiroglu et al. 2024, "Chinchilla Scaling: A
replication attempt").
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

HUBER_DELTA = 1e-3
"""Errors of log L up to this are quadratic in the loss, larger ones linear."""

FLOPS_PER_PARAMETER_AND_TOKEN = 6

STARTS = [
    np.array(start)
    for start in itertools.product(
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),  # log A
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),  # log B
        (-1.0, -0.5, 0.0, 0.5, 1.0),  # log E
        (0.0, 0.5, 1.0, 1.5, 2.0),  # alpha
        (0.0, 0.5, 1.0, 1.5, 2.0),  # beta
    )
]
"""The grid of starts of the paper's appendix D.3."""

BEST_STARTS = 60
"""Number of starts, those with the lowest objective, to minimise from."""

SMALLEST_GRID = 3
"""Minimum number of model sizes, and of token counts, for a fit."""

SMALLEST_RANGE = 2.0
"""Minimum ratio of the largest to the smallest of them."""


@dataclass(frozen=True)
class TrainedModel:
    """A point that the law is fitted to."""

    name: str
    params: float
    """Parameters, N."""
    tokens: float
    """Training tokens, D."""
    loss: float
    """Final loss, nats per token."""

    @property
    def flops(self) -> float:
        """Training FLOPs, 6 N D."""
        return FLOPS_PER_PARAMETER_AND_TOKEN * self.params * self.tokens


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, params: float, tokens: float) -> float:
        """Return the predicted loss, nats per token."""
        return self.E + self.A / params**self.alpha + self.B / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """Return the parameters and tokens with the lowest loss for a budget of 6 N D FLOPs.

        Hoffmann et al. 2022, equation 4.
        """
        ratio = self.alpha * self.A / (self.beta * self.B)
        product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        exponent = 1 / (self.alpha + self.beta)
        params = ratio**exponent * product ** (self.beta * exponent)
        return params, product / params

    @property
    def _logarithms(self) -> np.ndarray:
        return np.array(
            [math.log(self.A), math.log(self.B), math.log(self.E), self.alpha, self.beta]
        )


def find_missing(runs: Sequence[TrainedModel]) -> list[str]:
    """Return a line for each thing that the runs lack to determine the law.

    E, A and alpha need models of several sizes at similar token counts, B and beta a model at
    several token counts.
    """
    missing = []
    sizes = sorted({run.params for run in runs})
    if len(sizes) < SMALLEST_GRID or sizes[-1] < SMALLEST_RANGE * sizes[0]:
        missing.append(
            f"found {len(sizes)} model sizes{_span(sizes)}; expected at least {SMALLEST_GRID}, the "
            f"largest at least {SMALLEST_RANGE:g} times the smallest: add values to `model` in the "
            "grid"
        )
    lengths = {size: sorted({run.tokens for run in runs if run.params == size}) for size in sizes}
    longest = max(lengths.values(), key=len, default=[])
    if len(longest) < SMALLEST_GRID or longest[-1] < SMALLEST_RANGE * longest[0]:
        most = max(lengths, key=lambda size: len(lengths[size]), default=None)
        names = sorted({run.name for run in runs if run.params == most})
        missing.append(
            f"found at most {len(longest)} token counts for one model{_span(longest)}; expected at "
            f"least {SMALLEST_GRID}: train one, such as {names[0] if names else 'the smallest'}, "
            "with variants of `steps`, such as {half: {steps: ...}, double: {steps: ...}}, the "
            f"most at least {SMALLEST_RANGE:g} times the fewest"
        )
    elif sum(len(tokens) > 1 for tokens in lengths.values()) < 2:
        missing.append(
            "found several token counts at one model size only; train a second model at two of them"
        )
    if len(runs) < 6:
        missing.append(f"found {len(runs)} runs; expected at least 6 for the law's 5 coefficients")
    return missing


def _span(values: Sequence[float]) -> str:
    return f" ({values[0]:.3g} to {values[-1]:.3g})" if len(values) > 1 else ""


def fit_law(runs: Sequence[TrainedModel]) -> ScalingLaw:
    """Return the law with the lowest objective from all starts."""
    data = _arrays(runs)
    values = np.array([_objective(start, *data)[0] for start in STARTS])
    chosen = [STARTS[index] for index in np.argsort(values, kind="stable")[:BEST_STARTS]]
    return _best(chosen, data)


def bootstrap(
    runs: Sequence[TrainedModel], law: ScalingLaw, resamples: int, seed: int = 0
) -> list[ScalingLaw]:
    """Return the laws of runs resampled with replacement; equal seeds give equal laws.

    Each fit starts from the law of all runs and from points around it.
    """
    random = np.random.default_rng(seed)
    center = law._logarithms
    laws = []
    for _ in range(resamples):
        drawn = [runs[index] for index in random.integers(0, len(runs), len(runs))]
        around = [center * random.normal(1.0, 0.1, 5) for _ in range(2)]
        laws.append(_best([center, *around], _arrays(drawn)))
    return laws


def objective(law: ScalingLaw, runs: Sequence[TrainedModel]) -> float:
    """Return the fit's objective: the sum over runs of the Huber loss of log L."""
    return _objective(law._logarithms, *_arrays(runs))[0]


def _arrays(runs: Sequence[TrainedModel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table = np.log([[run.params, run.tokens, run.loss] for run in runs])
    return table[:, 0], table[:, 1], table[:, 2]


def _best(starts: Sequence[np.ndarray], data: tuple[np.ndarray, ...]) -> ScalingLaw:
    found = [
        minimize(_objective, start, args=data, jac=True, method="L-BFGS-B",
                 options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-10})
        for start in starts
    ]  # fmt: skip
    log_a, log_b, log_e, alpha, beta = min(found, key=lambda result: result.fun).x
    return ScalingLaw(math.exp(log_e), math.exp(log_a), math.exp(log_b), float(alpha), float(beta))


def _objective(
    x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the objective and its gradient, (5,), at (log A, log B, log E, alpha, beta)."""
    parts = np.stack([x[0] - x[3] * log_n, x[1] - x[4] * log_d, np.full_like(log_n, x[2])])
    largest = parts.max(0)
    predicted = largest + np.log(np.exp(parts - largest).sum(0))
    error = predicted - log_loss
    size = np.abs(error)
    huber = np.where(size <= HUBER_DELTA, 0.5 * error**2, HUBER_DELTA * (size - 0.5 * HUBER_DELTA))
    slope = np.clip(error, -HUBER_DELTA, HUBER_DELTA)
    shares = np.exp(parts - predicted) * slope
    gradient = np.array(
        [shares[0].sum(), shares[1].sum(), shares[2].sum(),
         -(shares[0] * log_n).sum(), -(shares[1] * log_d).sum()]
    )  # fmt: skip
    return float(huber.sum()), gradient


@dataclass(frozen=True)
class IsoFlop:
    """Runs with one compute budget, and the model size with the lowest loss among them."""

    flops: float
    """Geometric mean of the runs' budgets."""
    runs: tuple[TrainedModel, ...]
    params: float | None
    """Minimum of the parabola of loss over log N; None outside the runs' sizes."""
    loss: float | None


def isoflop_profiles(runs: Sequence[TrainedModel], tolerance: float = 0.1) -> list[IsoFlop]:
    """Return the budgets shared by at least four model sizes, within a factor of 1 + tolerance.

    Approach 2 of Hoffmann et al. 2022, section 3.2.
    """
    groups: list[list[TrainedModel]] = []
    for run in sorted(runs, key=lambda run: run.flops):
        if groups and run.flops <= groups[-1][0].flops * (1 + tolerance):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [_profile(group) for group in groups if len({run.params for run in group}) >= 4]


def _profile(runs: Sequence[TrainedModel]) -> IsoFlop:
    log_n = np.log([run.params for run in runs])
    curve = np.polynomial.Polynomial.fit(log_n, [run.loss for run in runs], 2).convert()
    _, slope, bend = (float(value) for value in curve.coef)
    flops = math.exp(float(np.mean(np.log([run.flops for run in runs]))))
    if bend > 0 and log_n.min() <= (lowest := -slope / (2 * bend)) <= log_n.max():
        return IsoFlop(flops, tuple(runs), math.exp(lowest), float(curve(lowest)))
    return IsoFlop(flops, tuple(runs), None, None)
