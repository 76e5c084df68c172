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

SMALLEST_RUNS = 12
"""Minimum number of runs: with fewer, the 80% intervals contained 24 to 36% of planted laws."""

BOUNDS = ((-30.0, 60.0), (-30.0, 60.0), (-10.0, 5.0), (1e-3, 4.0), (1e-3, 4.0))
"""Of log A, log B, log E, alpha and beta."""

CLEAR = 20.0
"""Minimum F statistic of the effects of N and of D. For noise it is about 1, and above 20 for about
one of a thousand grids of 12 runs."""

OPEN_SHARE = 0.1
"""Largest share of resampled laws at the bounds: with more, the 80% interval ends there."""


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

        Hoffmann et al. 2022, equation 4. At least one of each: of a law with small exponents, the
        optimum may be beyond all numbers.
        """
        ratio = self.alpha * self.A / (self.beta * self.B)
        product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        most = math.log(product)
        log_params = (math.log(ratio) + self.beta * most) / (self.alpha + self.beta)
        params = math.exp(min(max(log_params, 0.0), most))
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
            "on several numbers of tokens, such as `tokens: [10N, 20N, 40N]` in its block, the "
            f"most at least {SMALLEST_RANGE:g} times the fewest"
        )
    elif sum(len(tokens) > 1 for tokens in lengths.values()) < 2:
        missing.append(
            "found several token counts at one model size only; train a second model at two of them"
        )
    if len(runs) < SMALLEST_RUNS:
        few = f"found {len(runs)} runs; expected at least {SMALLEST_RUNS}"
        missing.append(f"{few}, as fewer do not determine the law's 5 coefficients")
    return missing


def find_flat(runs: Sequence[TrainedModel]) -> list[str]:
    """Return a line for each of size and tokens on which the losses do not depend visibly.

    An F test of a regression of log L on parabolas in log N and log D, which over a grid follow
    the law closely.
    """
    log_n, log_d, log_loss = _arrays(runs)
    size, tokens = (np.stack([x, x**2], 1) for x in (log_n - log_n.mean(), log_d - log_d.mean()))
    residual = _square_error(log_loss, size, tokens)
    scatter = residual / (len(runs) - 5)
    return [
        f"found no effect of the {name} on the loss beyond the scatter of the runs "
        f"({math.sqrt(scatter):.1%}); expected losses that depend on it"
        for name, other in (("model size", tokens), ("number of tokens", size))
        if (_square_error(log_loss, other) - residual) / 2 < CLEAR * scatter
    ]


def _square_error(values: np.ndarray, *columns: np.ndarray) -> float:
    """Return the sum of squares that a linear regression on columns and a constant leaves."""
    table = np.column_stack([np.ones(len(values)), *columns])
    coefficients = np.linalg.lstsq(table, values, rcond=None)[0]
    return float(((values - table @ coefficients) ** 2).sum())


def find_open_exponents(resampled: Sequence[ScalingLaw]) -> list[str]:
    """Return a line for each exponent that too many resampled laws have at its bounds."""
    low, high = BOUNDS[3]
    found = []
    for exponent, name in (("alpha", "model sizes"), ("beta", "numbers of tokens")):
        values = np.array([getattr(law, exponent) for law in resampled])
        share = float(np.mean((values <= 1.01 * low) | (values >= 0.99 * high)))
        if share > OPEN_SHARE:
            found.append(
                f"found no finite {exponent} above 0 in {share:.0%} of the resamples; expected a "
                f"wider range of {name}, or more runs"
            )
    return found


def _span(values: Sequence[float]) -> str:
    return f" ({values[0]:.3g} to {values[-1]:.3g})" if len(values) > 1 else ""


def fit_law(runs: Sequence[TrainedModel]) -> ScalingLaw:
    """Return the law with the lowest objective from all starts."""
    data = _arrays(runs)
    values = np.array([_objective(start, *data)[0] for start in STARTS])
    chosen = [STARTS[index] for index in np.argsort(values, kind="stable")[:BEST_STARTS]]
    return _best(chosen, data)


def bootstrap(runs: Sequence[TrainedModel], law: ScalingLaw, resamples: int) -> list[ScalingLaw]:
    """Return the laws of runs resampled with replacement, equal ones for equal runs.

    Each fit starts from the law of all runs and from points around it.
    """
    random = np.random.default_rng(0)
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
        minimize(_objective, start, args=data, jac=True, method="L-BFGS-B", bounds=BOUNDS,
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
class HeldOut:
    """Errors of predicting runs that the law was not fitted to."""

    name: str
    """Which runs were predicted."""
    runs: int
    """Number of runs predicted."""
    median_error: float
    """Median of |predicted / measured - 1|."""
    largest_error: float


def held_out_errors(runs: Sequence[TrainedModel], law: ScalingLaw) -> list[HeldOut]:
    """Return the errors of each fifth of the runs, and of the fifth with the most compute.

    Each is predicted by a law fitted to the other runs. `law`, that of all runs, is where its fit
    starts.
    """
    ordered = sorted(runs, key=lambda run: run.flops)
    count = max(1, len(runs) // 5)
    fifths = [ordered[first::5] for first in range(5)]
    return [
        _held_out("each fifth, from the others", fifths, runs, law),
        _held_out("the fifth with the most compute", [ordered[-count:]], runs, law),
    ]


def _held_out(
    name: str, parts: Sequence[list[TrainedModel]], runs: Sequence[TrainedModel], law: ScalingLaw
) -> HeldOut:
    center = law._logarithms
    errors = []
    for part in parts:
        kept = [run for run in runs if all(run is not other for other in part)]
        fit = _best([center, 0.9 * center, 1.1 * center], _arrays(kept))
        errors += [abs(fit.loss(run.params, run.tokens) / run.loss - 1) for run in part]
    return HeldOut(name, len(errors), float(np.median(errors)), max(errors))
