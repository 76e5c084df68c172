"""IsoFLOP curves: the best size of each compute budget, and how it grows with the budget.

Approach 2 of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.2:
for each budget a curve of the loss in log N, and one in log D; power laws through their minima.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from scipy.special import stdtrit

from study.analysis.curve import (
    LEVEL,
    Curve,
    fit_curve,
    near_lowest,
    pooled_noise,
    tell_places,
)
from study.analysis.series import Series
from study.formats import format_count, format_ends, format_known, format_missing, format_number
from study.measure.losses import FinalLoss, choose_loss
from study.measure.noise import Noise
from study.sequences import group_by

NEAR = 5.0
"""Factor on the size with the lowest loss within which the curves are fitted."""


@dataclass(frozen=True)
class IsoRun:
    """A run of an IsoFLOP curve."""

    params: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class Budget:
    """A row of isoflop.csv: a compute budget of a series."""

    variant: str
    flops: float
    """Training FLOPs that the grid asks for."""
    sizes: int
    """Model sizes with a loss."""
    runs: int
    """Runs with a loss, of all seeds."""
    params: float | None
    """Parameters of the best size, N: the minimum of the curve in log N."""
    params_low: float | None
    """Lower end of its 80% interval."""
    params_high: float | None
    tokens: float | None
    """Its training tokens, D: the minimum of the curve in log D."""
    tokens_low: float | None
    tokens_high: float | None
    loss: float | None
    """Loss at the minimum in log N, by the curve."""
    edge: str | None
    """smallest or largest: the loss still falls at that size, which is the last of the budget."""
    noise: float | None
    """Standard deviation of the runs around the curves in log N of all budgets together."""
    degrees: int
    """Degrees of freedom of the noise."""
    loss_kind: str
    note: str

    def readable(self) -> list[tuple[str, str]]:
        """Return headings and cells for people."""
        ratio = self.tokens / self.params if self.tokens and self.params else None
        return [
            ("Variant", self.variant),
            ("FLOPs", f"{self.flops:.3g}".replace("e+", "e")),
            ("Sizes", str(self.sizes)),
            ("Runs", str(self.runs)),
            ("Best params", format_known(self.params, format_count)),
            ("80% interval", format_ends(self.params_low, self.params_high, format_count)),
            ("Best tokens", format_known(self.tokens, format_count)),
            ("80% interval", format_ends(self.tokens_low, self.tokens_high, format_count)),
            ("Tokens/param", format_known(ratio, format_number)),
            ("Loss", format_known(self.loss, "{:.3f}".format)),
            ("Notes", self.note),
        ]


@dataclass(frozen=True)
class PowerLaw:
    """A row of isoflop_exponents.csv: optimum = coefficient * FLOPs ^ exponent."""

    variant: str
    quantity: str
    """params or tokens."""
    exponent: float | None
    low: float | None
    """Lower end of its 80% interval."""
    high: float | None
    coefficient: float | None
    budgets: int
    """Budgets with a minimum."""
    note: str

    def readable(self) -> list[tuple[str, str]]:
        """Return headings and cells for people."""
        names = {"params": "Parameters N", "tokens": "Tokens D"}
        return [
            ("Variant", self.variant),
            ("Optimum", names[self.quantity]),
            ("Exponent of FLOPs", format_known(self.exponent, "{:.3f}".format)),
            ("80% interval", format_ends(self.low, self.high, "{:.3f}".format)),
            ("Coefficient", format_known(self.coefficient, "{:.3g}".format)),
            ("Budgets", str(self.budgets)),
            ("Notes", self.note),
        ]

    def __call__(self, flops: float) -> float:
        """Return the optimum of a budget."""
        assert self.coefficient is not None and self.exponent is not None
        return float(self.coefficient * flops**self.exponent)


@dataclass(frozen=True)
class BudgetCurve:
    """A row with what a figure draws of it."""

    row: Budget
    runs: Sequence[IsoRun]
    fitted: Curve | None
    """In log N."""


@dataclass(frozen=True)
class IsoFlopFit:
    """The curves of a series, by ascending budget, and the power laws of N and D."""

    curves: Sequence[BudgetCurve]
    laws: Sequence[PowerLaw]


def fit_isoflops(series: Series, losses: Mapping[str, FinalLoss]) -> IsoFlopFit:
    """Return the fit to the runs of a series; a budget with fewer than three sizes has no curve."""
    known, kind = choose_loss(series.cells, losses)
    planned: dict[float, int] = {}
    budgets: dict[float, list[IsoRun]] = {}
    for cell in series.cells:
        assert cell.length is not None
        flops = float(cell.length.value)
        planned[flops] = planned.get(flops, 0) + 1
        here = budgets.setdefault(flops, [])
        if cell.name in known:
            tokens = cell.tokens_per_step * cell.run.steps
            here.append(IsoRun(cell.params, tokens, known[cell.name]))
    fit = fit_budgets(series.label, budgets, kind)
    curves = [_with_missing(curve, planned[curve.row.flops]) for curve in fit.curves]
    return IsoFlopFit(curves, fit.laws)


def fit_budgets(label: str, budgets: Mapping[float, Sequence[IsoRun]], kind: str) -> IsoFlopFit:
    """Return the fit to runs by budget, FLOPs."""
    pairs = {flops: _fit_both(budgets[flops]) for flops in sorted(budgets)}
    in_params, in_tokens = (
        pooled_noise([pair[index] for pair in pairs.values() if pair is not None])
        for index in (0, 1)
    )
    curves = [
        _curve(label, flops, budgets[flops], pair, (in_params, in_tokens), kind)
        for flops, pair in pairs.items()
    ]
    laws = [
        _power_law(label, "params", {f: pair[0] for f, pair in pairs.items() if pair}, in_params),
        _power_law(label, "tokens", {f: pair[1] for f, pair in pairs.items() if pair}, in_tokens),
    ]
    return IsoFlopFit(curves, laws)


def _fit_both(runs: Sequence[IsoRun]) -> tuple[Curve, Curve] | None:
    """Return the curves of one budget in log N and in log D, through the same runs."""
    near = near_lowest([run.params for run in runs], [run.loss for run in runs], NEAR)
    losses = [runs[index].loss for index in near]
    in_params = fit_curve([math.log(runs[index].params) for index in near], losses)
    in_tokens = fit_curve([math.log(runs[index].tokens) for index in near], losses)
    return None if in_params is None or in_tokens is None else (in_params, in_tokens)


def _curve(
    label: str,
    flops: float,
    runs: Sequence[IsoRun],
    pair: tuple[Curve, Curve] | None,
    noises: tuple[Noise | None, Noise | None],
    kind: str,
) -> BudgetCurve:
    (params, params_low, params_high), (tokens, tokens_low, tokens_high) = (
        _minimum(None if pair is None else pair[index], noises[index]) for index in (0, 1)
    )
    edge = None if pair is None or params is not None else _edge(runs)
    sizes = len({run.params for run in runs})
    if pair is None:
        note = "a curve needs losses of three sizes"
    elif params is None:
        note = f"at the edge: the {edge} size" if edge else "the curve has no minimum"
    elif noises[0] is None:
        note = "no interval: three sizes of one seed leave no scatter"
    else:
        note = "no interval: the curve is as flat as the noise" if params_low is None else ""
    fitted = tell_places(None if pair is None else pair[0], sizes, "sizes")
    row = Budget(
        variant=label,
        flops=flops,
        sizes=sizes,
        runs=len(runs),
        params=params,
        params_low=params_low,
        params_high=params_high,
        tokens=tokens,
        tokens_low=tokens_low,
        tokens_high=tokens_high,
        loss=None if pair is None or params is None else pair[0](math.log(params)),
        edge=edge,
        noise=None if noises[0] is None else noises[0].deviation,
        degrees=0 if noises[0] is None else noises[0].degrees,
        loss_kind=kind,
        note="; ".join(filter(None, [fitted, note])),
    )
    return BudgetCurve(row, runs, None if pair is None else pair[0])


def _minimum(
    fitted: Curve | None, noise: Noise | None
) -> tuple[float | None, float | None, float | None]:
    if fitted is None or fitted.minimum is None:
        return None, None, None
    ends = None if noise is None else fitted.interval(noise)
    low, high = (None, None) if ends is None else map(math.exp, ends)
    return math.exp(fitted.minimum), low, high


def _edge(runs: Sequence[IsoRun]) -> str | None:
    losses = group_by(runs, lambda run: run.params)
    best = min(losses, key=lambda size: fmean(run.loss for run in losses[size]))
    sizes = sorted(losses)
    return {sizes[0]: "smallest", sizes[-1]: "largest"}.get(best)


def _with_missing(curve: BudgetCurve, planned: int) -> BudgetCurve:
    missing = format_missing(len(curve.runs), planned)
    note = "; ".join(filter(None, [missing, curve.row.note]))
    return replace(curve, row=replace(curve.row, note=note))


def _power_law(
    label: str, quantity: str, curves: Mapping[float, Curve], noise: Noise | None
) -> PowerLaw:
    """Return the line through the logarithms of the minima, each weighted by its variance.

    The interval is propagated from the noise of the losses. Where the minima of three budgets or
    more scatter by more than that around the line, it is wider by as much.
    """
    found = {f: item for f, item in curves.items() if item.minimum is not None}
    x, y = np.log(list(found)), np.array([item.minimum for item in found.values()], dtype=float)
    if len(found) < 2:
        note = f"needs two budgets with a minimum between their sizes; found {len(found)}"
        return PowerLaw(label, quantity, None, None, None, None, len(found), note)
    errors = np.ones(len(x))
    if noise is not None:
        errors = np.array([item.minimum_error(noise) for item in found.values()])
    weights = errors**-2.0
    center = float((weights @ x) / weights.sum())
    spread = float(weights @ (x - center) ** 2)
    exponent = float(weights @ ((x - center) * y)) / spread
    constant = float((weights @ y) / weights.sum()) - exponent * center
    misfit = float(weights @ (y - constant - exponent * x) ** 2)
    degrees = len(x) - 2
    error, note = None, ""
    if noise is not None:
        wider = math.sqrt(max(1.0, misfit / degrees)) if degrees else 1.0
        error = wider / math.sqrt(spread) * noise.factor(LEVEL)
    elif degrees:
        factor = float(stdtrit(degrees, 0.5 + LEVEL / 2))
        error = math.sqrt(misfit / degrees / spread) * factor
        note = "interval from the scatter of the minima around the power law"
    else:
        note = "no interval: two budgets of three sizes with one seed leave no scatter"
    low, high = (None, None) if error is None else (exponent - error, exponent + error)
    return PowerLaw(label, quantity, exponent, low, high, math.exp(constant), len(x), note)
