"""The scaling law as files: the losses that it is fitted to, and its tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from study.analysis.series import of_equal_settings
from study.csv_tables import CsvRow, read_csv
from study.formats import format_count, format_known
from study.grid import Grid
from study.law.isoflop_profiles import isoflop_profiles
from study.law.scaling_law import (
    FLOPS_PER_PARAMETER_AND_TOKEN,
    ScalingLaw,
    TrainedModel,
    bootstrap,
    find_flat,
    find_missing,
    find_open_exponents,
    fit_law,
    held_out_errors,
)
from study.markdown import markdown_table
from study.measure.losses import choose_loss, final_losses
from trainer.problems import ConfigError
from trainer.yaml_files import shorten

RESAMPLES = 300
"""Bootstrap samples."""

NO_MINIMUM = "beyond the sizes near the lowest loss"
"""Shown for an IsoFLOP profile without a minimum."""

UNLIKE = "The runs differ in more than size and tokens, which the law takes for scatter: {}."

COEFFICIENTS = ("E", "A", "B", "alpha", "beta")

BUDGETS = (1, 10, 100, 1000)
"""Compute budgets in the table of optima, in multiples of the largest run's."""


@dataclass(frozen=True)
class Coefficient:
    """A row of scaling_law.csv: a coefficient with its bootstrap interval."""

    name: str
    value: float
    low: float
    """10th percentile of the bootstrap."""
    high: float
    """90th percentile of the bootstrap."""
    standard_error: float
    """Standard deviation of the bootstrap."""


@dataclass(frozen=True)
class Fit:
    """A law, its bootstrap, and the runs that it was fitted to."""

    runs: Sequence[TrainedModel]
    law: ScalingLaw
    resampled: Sequence[ScalingLaw]
    what: str
    """Name of the loss."""
    settings: Sequence[str] = ()
    """Names of what the runs differ in besides size and tokens, if they do."""

    @property
    def coefficients(self) -> list[Coefficient]:
        """The coefficients with their intervals."""
        rows = []
        for name in COEFFICIENTS:
            values = [getattr(law, name) for law in self.resampled]
            low, high = (float(value) for value in np.quantile(values, (0.1, 0.9)))
            rows.append(
                Coefficient(name, getattr(self.law, name), low, high, float(np.std(values)))
            )
        return rows

    def interval(self, read: Callable[[ScalingLaw], float]) -> tuple[float, float, float]:
        """Return the 10th percentile, value and 90th percentile of a function of the law."""
        low, high = np.quantile([read(law) for law in self.resampled], (0.1, 0.9))
        return float(low), read(self.law), float(high)


def fit_runs(
    source: str, runs: Sequence[TrainedModel], what: str, settings: Sequence[str] = ()
) -> Fit:
    """Return the fit to some runs; raises ConfigError if they do not determine it."""
    _refuse(source, find_missing(runs) or find_flat(runs))
    law = fit_law(runs)
    resampled = bootstrap(runs, law, RESAMPLES)
    _refuse(source, find_open_exponents(resampled))
    return Fit(runs, law, resampled, what, settings)


def _refuse(source: str, reasons: Sequence[str]) -> None:
    if reasons:
        raise ConfigError(source, [f"no scaling law can be fitted: {line}" for line in reasons])


def study_losses(grid: Grid) -> tuple[list[TrainedModel], str, list[str]]:
    """Return a study's trained runs, the name of their loss, and `Fit.settings`.

    The validation loss if every run has one, otherwise the median training loss of the last tenth
    of the steps. For the runs that are left out see `final_losses`.
    """
    found = final_losses(grid)
    losses, what = choose_loss((cell for cell, _ in found), {cell.name: f for cell, f in found})
    runs = [
        TrainedModel(
            cell.name, cell.params, cell.tokens_per_step * cell.run.steps, losses[cell.name]
        )
        for cell, _ in found
    ]
    series = [
        item for item in of_equal_settings(grid) if not losses.keys().isdisjoint(item.changes)
    ]
    return runs, what, [item.label for item in series] if len(series) > 1 else []


def read_losses(path: Path, drop_highest: int = 0) -> list[TrainedModel]:
    """Return the runs of a CSV with the columns params, loss, and tokens or training_flop.

    `drop_highest` is the number of rows with the highest loss to leave out. Raises ConfigError.
    """
    table = read_csv(path)
    lengths = [name for name in ("tokens", "training_flop") if name in table.columns]
    if not (lengths and {"params", "loss"} <= {*table.columns}):
        found = shorten(", ".join(table.columns) or "none")
        expected = "params, loss, and tokens or training_flop"
        raise ConfigError(str(path), [f"columns: found {found}; expected {expected}"])
    rows = [_run(row, lengths) for row in table.rows]
    return sorted(rows, key=lambda run: run.loss)[: max(0, len(rows) - drop_highest)]


def _run(row: CsvRow, lengths: Sequence[str]) -> TrainedModel:
    """Return the run of a row; `lengths`: the columns that may give its tokens."""
    params, loss = row.number("params"), row.number("loss")
    given = next((name for name in lengths if row.text(name)), lengths[0])
    tokens = row.number(given)
    if given == "training_flop":  # of others, it may count more than 6 N D
        tokens /= FLOPS_PER_PARAMETER_AND_TOKEN * params
    return TrainedModel(f"row {row.line}", params, tokens, loss)


def to_markdown(fit: Fit) -> str:
    """Return the law, the optima for some budgets, and the IsoFLOP profiles, for people."""
    law = markdown_table(
        ["Coefficient", "Value", "80% interval", "Standard error"],
        [
            [row.name, f"{row.value:.4g}", f"{row.low:.4g} to {row.high:.4g}",
             f"{row.standard_error:.2g}"]
            for row in fit.coefficients
        ],
    )  # fmt: skip
    parts = [
        f"L(N, D) = E + A / N^alpha + B / D^beta, {fit.what} of {len(fit.runs)} runs, "
        "nats per token.",
        *([UNLIKE.format(", ".join(fit.settings))] if fit.settings else []),
        law,
        "Compute-optimal models:",
        _optima(fit),
        "Error of the loss of runs that were left out of the fit:",
        _held_out(fit),
    ]
    profiles = isoflop_profiles(fit.runs)
    if profiles:
        rows = [
            [f"{item.flops:.2e}", str(len(item.runs)),
             NO_MINIMUM if item.params is None else format_count(item.params),
             format_known(item.loss, "{:.3f}".format)]
            for item in profiles
        ]  # fmt: skip
        headings = ["FLOPs", "Runs", "Best params", "Loss"]
        parts += ["IsoFLOP profiles:", markdown_table(headings, rows)]
    return "\n\n".join(parts) + "\n"


def _held_out(fit: Fit) -> str:
    rows = [
        [item.name, str(item.runs), f"{item.median_error:.2%}", f"{item.largest_error:.2%}"]
        for item in held_out_errors(fit.runs, fit.law)
    ]
    return markdown_table(["Left out", "Runs", "Median", "Largest"], rows)


def _optima(fit: Fit) -> str:
    largest = max(run.flops for run in fit.runs)
    rows = []
    for factor in BUDGETS:
        flops = factor * largest
        values = [
            fit.interval(lambda law, flops=flops, index=index: law.optimum(flops)[index])  # type: ignore[misc]
            for index in (0, 1)
        ]
        low, middle, high = fit.interval(lambda law, flops=flops: law.loss(*law.optimum(flops)))  # type: ignore[misc]
        texts = [
            f"{format_count(value)} ({format_count(least)} to {format_count(most)})"
            for least, value, most in values
        ]
        rows.append([f"{flops:.2e}", *texts, f"{middle:.3f} ({low:.3f} to {high:.3f})"])
    headings = ["FLOPs", "Params", "Tokens", "Loss"]
    return markdown_table(headings, rows)
