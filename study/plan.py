"""The plan: what stands in the grid, what was run already, and what the rest will ask for.

Quick on purpose: it reads run.json of each cell and throughput.csv, and imports no pandas.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from study.estimate import (
    Estimate,
    estimate_cell,
    format_count,
    format_seconds,
    read_measurements,
)
from study.grid import Cell, Grid
from study.launch import request_line
from study.logs import is_stale, read_summary

TO_RUN = ("to run", "partly", "failed", "stale")
"""States of cells that a training run is started for."""


@dataclass(frozen=True)
class PlanRow:
    """One cell of the plan."""

    cell: Cell
    state: str
    """measured, estimate only, or one of `TO_RUN`."""
    detail: str
    """What is behind the state, such as the steps that were done."""
    estimate: Estimate
    """Time of the cell's whole run, with its own number of steps."""

    @property
    def runs(self) -> bool:
        """The cell will be trained."""
        return self.state in TO_RUN


def plan_table(grid: Grid, throughput_csv: str | Path | None = None) -> list[PlanRow]:
    """Return one row for each cell, in the grid's order.

    Times rest on the measurements in `throughput_csv`; without the file they are not known.
    Raises ConfigError where a run.json or the table is malformed.
    """
    exists = throughput_csv is not None and Path(throughput_csv).exists()
    measurements = read_measurements(throughput_csv, grid) if throughput_csv and exists else []
    rows = []
    for cell in grid:
        state, detail = find_state(cell)
        estimate = estimate_cell(cell, measurements, cell.run.steps)
        rows.append(PlanRow(cell, state, detail, estimate))
    return rows


def find_state(cell: Cell) -> tuple[str, str]:
    """Return where a cell stands, and a detail for people."""
    if not cell.measure:
        return "estimate only", ""
    summary = read_summary(cell.folder)
    if summary is None:
        return "to run", ""
    if is_stale(cell, summary):
        return "stale", "settings have changed"
    progress = f"{summary.steps_done} of {cell.run.steps} steps"
    if summary.status == "completed":
        return "measured", "" if summary.outcome != "diverged" else f"diverged, {progress}"
    if summary.status == "failed":
        return "failed", progress
    # A run that was killed could not write so: 'running' may be over, and goes on all the same.
    return "partly", f"{summary.status}, {progress}"


def format_plan(rows: Sequence[PlanRow]) -> str:
    """Return the plan as text for a terminal, with totals at its end."""
    headings = [
        "Cell",
        "Params",
        "Batch/GPU x accum.",
        "Tokens/step",
        "Steps",
        "State",
        "Time",
        "GPU-hours",
        "Request",
    ]
    table = tabulate([_cells(row) for row in rows], headings, "simple", disable_numparse=True)
    return f"{table}\n\n{format_totals(rows)}\n"


def _cells(row: PlanRow) -> list[str]:
    cell, estimate = row.cell, row.estimate
    known = estimate.seconds is not None
    return [
        cell.name,
        format_count(cell.params, 3),
        f"{cell.run.data.batch_size} x {cell.run.grad_acc_steps}",
        f"{cell.tokens_per_step:,}",
        f"{cell.run.steps:,}",
        f"{row.state} ({row.detail})" if row.detail else row.state,
        f"~{format_seconds(estimate.seconds)}" if estimate.seconds is not None else "not known",
        f"{estimate.gpu_hours:.2g}" if known else "",
        (request_line(cell.place, cell.gpus) or "this machine") if cell.measure else "",
    ]


def format_totals(rows: Sequence[PlanRow]) -> str:
    """Return the totals: cells by state, cells to run, and the GPU-hours known of them.

    A run that goes on from a checkpoint counts whole.
    """
    counts = Counter(row.state for row in rows)
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    hours = [row.estimate.gpu_hours for row in rows if row.runs]
    known = [value for value in hours if value is not None]
    parts = [f"{len(rows)} cells: {states}.", f"{len(hours)} to train"]
    if hours:
        parts[1] += f", {sum(known):.2g} GPU-hours" if known else ", time not known"
        unknown = len(hours) - len(known)
        parts[1] += f" (and {unknown} of them not known)" if known and unknown else ""
    return " ".join(parts) + "."
