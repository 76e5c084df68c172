"""The best learning rate of each model size: the minimum of a curve in its logarithm."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from study.analysis.curve import Curve, fit_curve, near_lowest, pooled_noise, tell_places
from study.analysis.series import Series
from study.formats import format_count, format_ends, format_known, format_missing
from study.grid import Cell
from study.measure.losses import FinalLoss, choose_loss
from study.measure.noise import Noise

NEAR = 8.0
"""Factor on the learning rate with the lowest loss within which the curve is fitted."""


@dataclass(frozen=True)
class BestRate:
    """A row of learning_rate.csv: a model size of a series."""

    variant: str
    model: str
    params: int
    rates: int
    """Different learning rates with a loss."""
    runs: int
    """Runs with a loss, of all seeds."""
    best_lr: float | None
    """Minimum of the curve, or at an edge of the grid the learning rate there."""
    low: float | None
    """Lower end of the 80% interval of the minimum."""
    high: float | None
    loss: float | None
    """Loss at the minimum, by the curve; at an edge the mean of the runs there."""
    curvature: float | None
    """Second derivative of the curve in ln(lr), at its minimum, nats per token."""
    edge: str | None
    """lowest or highest: the loss still falls at that learning rate, which is the last of the
    grid."""
    noise: float | None
    """Standard deviation of the runs around the curves of all sizes together."""
    degrees: int
    """Degrees of freedom of the noise."""
    loss_kind: str
    note: str

    def readable(self) -> list[tuple[str, str]]:
        """Return headings and cells for people."""
        return [
            ("Variant", self.variant),
            ("Model", self.model),
            ("Params", format_count(self.params)),
            ("Rates", str(self.rates)),
            ("Runs", str(self.runs)),
            ("Best lr", format_known(self.best_lr, "{:.2e}".format)),
            ("80% interval", format_ends(self.low, self.high, "{:.2e}".format)),
            ("Loss", format_known(self.loss, "{:.3f}".format)),
            ("Notes", self.note),
        ]


@dataclass(frozen=True)
class RateCurve:
    """A row with what a figure draws of it."""

    row: BestRate
    rates: Sequence[float]
    losses: Sequence[float]
    fitted: Curve | None


def fit_learning_rates(series: Series, losses: Mapping[str, FinalLoss]) -> list[RateCurve]:
    """Return the curve of each model size; one with losses at fewer than three rates has none."""
    known, kind = choose_loss(series.cells, losses)
    found, fits = {}, {}
    for model, cells in series.by_model().items():
        have = [cell for cell in cells if cell.name in known]
        rates, values = [cell.run.optim.lr for cell in have], [known[cell.name] for cell in have]
        found[model] = cells, rates, values
        fitted = fit_rates(rates, values)
        if fitted is not None:
            fits[model] = fitted
    noise = pooled_noise(list(fits.values()))
    return [
        RateCurve(
            _row(series.label, cells, rates, values, fits.get(model), noise, kind),
            rates,
            values,
            fits.get(model),
        )
        for model, (cells, rates, values) in found.items()
    ]


def fit_rates(rates: Sequence[float], losses: Sequence[float]) -> Curve | None:
    """Return the curve through the losses near the lowest; None at fewer than three rates."""
    near = near_lowest(rates, losses, NEAR)
    places = [math.log(rates[index]) for index in near]
    return fit_curve(places, [losses[index] for index in near])


def _row(
    label: str,
    cells: Sequence[Cell],
    rates: Sequence[float],
    losses: Sequence[float],
    fitted: Curve | None,
    noise: Noise | None,
    kind: str,
) -> BestRate:
    best = _find_best(rates, losses, fitted, noise)
    missing = format_missing(len(rates), len(cells))
    left_out = tell_places(fitted, len(set(rates)), "rates")
    return BestRate(
        variant=label,
        model=cells[0].model,
        params=cells[0].params,
        rates=len(set(rates)),
        runs=len(rates),
        best_lr=best.lr,
        low=best.low,
        high=best.high,
        loss=best.loss,
        curvature=best.curvature,
        edge=best.edge,
        noise=None if noise is None else noise.deviation,
        degrees=0 if noise is None else noise.degrees,
        loss_kind=kind,
        note="; ".join(filter(None, [_tell_batches(cells), missing, left_out, best.note])),
    )


@dataclass(frozen=True)
class _Best:
    """The best learning rate, as in the columns of a row."""

    lr: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None
    curvature: float | None = None
    edge: str | None = None
    note: str = ""


def _find_best(
    rates: Sequence[float],
    losses: Sequence[float],
    fitted: Curve | None,
    noise: Noise | None,
) -> _Best:
    if fitted is None:
        return _Best(note="a curve needs losses at three learning rates")
    x = fitted.minimum
    loss, best = min((_mean(rate, rates, losses), rate) for rate in set(rates))
    # The best rate may be beyond, and a curve through losses on one side of it is misleading.
    edge = {min(rates): "lowest", max(rates): "highest"}.get(best)
    if x is None or edge:
        note = f"at the edge: the {edge} rate tried" if edge else "the curve has no minimum"
        return _Best(best, loss, edge=edge, note=note)
    found = _Best(math.exp(x), fitted(x), curvature=fitted.bend(x))
    if noise is None:
        return replace(found, note="no interval: three rates of one seed leave no scatter")
    ends = fitted.interval(noise)
    if ends is None:
        return replace(found, note="no interval: the curve is as flat as the noise")
    low, high = map(math.exp, ends)
    return replace(found, low=low, high=high)


def _tell_batches(cells: Sequence[Cell]) -> str:
    """Return a note on batches of several sizes, each with a best rate of its own; else empty."""
    batches = sorted({cell.tokens_per_step for cell in cells})
    sizes = " and ".join(f"{tokens:,}" for tokens in batches)
    return f"unlike batches: {sizes} tokens a step" if len(batches) > 1 else ""


def _mean(rate: float, rates: Sequence[float], losses: Sequence[float]) -> float:
    here = [loss for at, loss in zip(rates, losses, strict=True) if at == rate]
    return sum(here) / len(here)
