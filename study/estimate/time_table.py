"""Read time_estimates.csv, and write the time table as Markdown for people."""

from collections.abc import Sequence
from pathlib import Path

from study.csv_tables import read_as
from study.estimate.basis import MEASURED
from study.estimate.estimate import PREDICTED_STARTUP, Estimate
from study.formats import (
    format_amount,
    format_count,
    format_interval,
    format_known,
    format_seconds,
)
from study.markdown import markdown_table
from study.sequences import group_by
from study.trainers import DEFAULT_TRAINER


def read_estimates(csv_path: str | Path) -> list[Estimate]:
    """Return the rows of a time_estimates.csv. Raises ConfigError."""
    return read_as(csv_path, Estimate, "a time-estimate table", "estimate")


def by_horizon(estimates: Sequence[Estimate]) -> dict[str, list[Estimate]]:
    """Return horizon -> rows, in the table's order."""
    return group_by(estimates, lambda item: item.horizon)


def readable_estimates(estimates: Sequence[Estimate]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of one horizon for people: the columns that groups keep by hand.

    Cost and energy are shown if they are known, GPU-hours with them or if the horizon is not in
    steps.
    """
    name = estimates[0].horizon if estimates else "Run"
    headings = ["Model Size", "Params", "GPUs", "Tokens/Step", f"{name.title()} Time", "Interval"]
    optional = {
        "Tokens": lambda item: format_count(item.tokens),
        "GPU-hours": lambda item: format_known(item.gpu_hours, format_amount),
        "Cost": lambda item: "" if item.cost is None else f"{item.cost:.2f} {item.currency}",
        "Energy (kWh)": lambda item: format_known(item.energy_kwh, format_amount),
    }
    if not name or name.endswith(" steps"):
        del optional["Tokens"]
        if all(item.cost is None and item.energy_kwh is None for item in estimates):
            del optional["GPU-hours"]
    shown = {head: [write(item) for item in estimates] for head, write in optional.items()}
    shown = {head: column for head, column in shown.items() if any(column)}
    has_trainers = any(item.trainer != DEFAULT_TRAINER for item in estimates)
    rows = []
    for index, item in enumerate(estimates):
        variant = item.plain_variant or item.variant
        rows.append(
            [
                item.model if variant == "base" else f"{item.model} ({variant})",
                *([item.trainer] if has_trainers else []),
                format_count(item.params),
                f"{item.gpus}x {item.gpu_name}",
                format_count(item.tokens_per_step, 2),
                "" if item.seconds is None else f"~{format_seconds(item.seconds)}",
                format_interval(item.seconds_low, item.seconds_high),
                *(column[index] for column in shown.values()),
                _note(item),
            ]
        )
    if has_trainers:
        headings.insert(1, "Trainer")
    return [*headings, *shown, "Notes"], rows


def _note(item: Estimate) -> str:
    """Return the basis of an estimate, who measured it, and why it is uncertain."""
    if item.seconds is None:
        return f"Not estimated: {item.method}"
    if item.basis not in MEASURED:
        return f"{item.basis}, {item.method}"
    note = f"{item.basis} by {item.by}" if item.by else item.basis
    if item.method == PREDICTED_STARTUP:
        note += ", start-up predicted"
    if item.doubt:
        note += f", {item.doubt}"
    if item.measured_steps is not None:
        note += f"; speed over {item.measured_steps} steps, length extrapolated"
    return note


def to_markdown(estimates: Sequence[Estimate]) -> str:
    """Return the time table for people, one for each horizon."""
    tables = []
    for rows in by_horizon(estimates).values():
        headings, cells = readable_estimates(rows)
        tables.append(markdown_table(headings, cells) + "\n")
    return "\n".join(tables)
