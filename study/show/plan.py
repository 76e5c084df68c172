"""The plan: the cells of the grid, which were run already, and what the others will request.

It has to be fast: it reads only the measurements and each cell's run.json, and imports no pandas.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from study.axes import name_value
from study.config import BudgetConfig
from study.estimate.basis import MEASURED
from study.estimate.estimate import Estimate
from study.estimate.forecast import Forecast
from study.formats import (
    format_amount,
    format_count,
    format_interval,
    format_known,
    format_moment,
    format_number,
    format_seconds,
)
from study.grid import Cell, Grid
from study.grid_check import unused_variants
from study.jobs.launch import request_line
from study.jobs.missing_starts import find_missing_starts
from study.jobs.text_changes import CHANGED, TextChanges
from study.measure.changes import MOST_EXPLAINED, UNKNOWN, describe_change
from study.measure.summaries import describe_reasons, first_line, is_stale, read_failure
from study.placements import Placement, Prospect
from study.sequences import evenly
from study.trainer_command import command
from trainer.folder.run_file import find_summary
from trainer.records import SUMMARY, RunSummary

TO_RUN = ("to run", "partly", "failed", "stale")
"""States of cells that will be trained."""

MOST_COMPARED = 500
"""Most configurations of which the most informative is found, since each is compared with each; of
more, evenly spaced ones."""


MOST_COMMANDS = 50
"""Most commands that are printed."""


@dataclass(frozen=True)
class PlanRow:
    """One cell of the plan."""

    cell: Cell
    state: str
    """measured, estimate only, or one of `TO_RUN`."""
    detail: str
    """Details of the state, such as the steps done."""
    estimate: Estimate
    """Time of the cell's whole run, with its own number of steps."""
    request: str
    """Its Slurm request; empty on this machine."""
    warning: str
    """Why the run may fail as configured."""
    failure: str = ""
    """Why its last attempt failed; empty if it did not, or if that is not known."""

    @property
    def runs(self) -> bool:
        """The cell will be trained."""
        return self.state in TO_RUN


def plan_table(grid: Grid, forecast: Forecast) -> list[PlanRow]:
    """Return one row for each cell, in the grid's order.

    A run whose run.json cannot be read is to run: it resumes from its newest checkpoint.
    """
    rows: list[PlanRow] = []
    stale = 0
    changes = TextChanges(grid)
    for cell in grid:
        summary = find_summary(cell.folder) if cell.measure else None
        state, detail = find_state(cell, summary, explain=stale < MOST_EXPLAINED)
        stale += state == "stale"
        if cell.measure and summary is None and not _is_absent(cell):
            detail = f"{SUMMARY} cannot be read"
        if state == "measured" and (change := changes.find_change(cell)):
            state = "stale" if change == CHANGED else state
            detail = f"{detail}; {change}" if detail else change
        estimate = forecast.estimate(cell)
        request = (
            request_line(cell.cluster_config, cell.gpus, forecast.needs(cell))
            if cell.measure
            else ""
        )
        failure = read_failure(cell.folder) if state == "failed" else None
        reason = first_line(failure.message) if failure else ""
        warning = find_warning(cell, estimate)
        rows.append(PlanRow(cell, state, detail, estimate, request, warning, reason))
    return rows


def _is_absent(cell: Cell) -> bool:
    """Say whether a cell has no run.json; one in a folder that may not be read is there."""
    try:
        return not Path(cell.folder, SUMMARY).exists()
    except OSError:
        return False


def find_warning(cell: Cell, estimate: Estimate) -> str:
    """Return why a run may fail: too little memory, or too short a time limit."""
    warnings = []
    limit, memory, high = (
        cell.cluster_config.memory_gib,
        estimate.memory_gib,
        estimate.memory_gib_high,
    )
    if limit is not None and memory is not None and high is not None and high > limit:
        verdict = "does not fit" if memory > limit else "may not fit"
        needs = f"{format_number(memory)} GiB (up to {format_number(high)})"
        warnings.append(f"{verdict}: {needs} of {limit:g} a GPU")
    limit_min = cell.cluster_config.slurm.runtime_min if cell.cluster_config.slurm else "auto"
    if limit_min != "auto" and (estimate.seconds_high or 0) > 60 * limit_min:
        warnings.append(f"may take longer than its limit of {limit_min} min")
    return "; ".join(warnings)


def find_state(cell: Cell, summary: RunSummary | None, explain: bool = True) -> tuple[str, str]:
    """Return the state of a cell with the run.json of its run, and a detail for people.

    `explain`: look up which settings of a stale run have changed.
    """
    if not cell.measure:
        return "estimate only", ""
    if summary is None:  # a run may have been refused before there was one
        return ("failed", "") if read_failure(cell.folder) else ("to run", "")
    if is_stale(cell, summary):
        return "stale", describe_change(cell) if explain else UNKNOWN
    progress = f"{summary.steps_done} of {cell.run.steps} steps"
    if summary.status == "completed":
        return "measured", "" if summary.outcome != "diverged" else f"diverged, {progress}"
    if summary.status == "failed":
        return "failed", progress
    # A killed run still says 'running'; it is resumed either way.
    return "partly", f"{summary.status}, {progress}"


def format_plan(grid: Grid, rows: Sequence[PlanRow], forecast: Forecast) -> str:
    """Return the plan as text for a terminal, with the totals first."""
    headings = ["Cell", "Params", "Batch/GPU x accum.", "Tokens/step", "Steps", "State", "Time"]
    headings += ["Interval", "GPU-hours", "Request"]
    table = tabulate([_cells(row) for row in rows], headings, "simple", disable_numparse=True)
    lines = format_placements(grid).splitlines()
    failures = {row.cell.name: row.failure for row in rows if row.failure}
    lines += [f"{line}." for line in describe_reasons(failures, "failed")]
    to_train = [row.cell for row in rows if row.runs]
    lines += [f"{line}." for line in find_missing_starts(grid, to_train)]
    lines += [f"{row.cell.name}: {row.warning}." for row in rows if row.warning]
    lines += format_budget(grid.study.budget, rows)
    waiting = {row.cell.name for row in rows if row.estimate.basis not in MEASURED}
    unmeasured = [c for c in grid.configurations if c.measure and c.name in waiting]
    compared = evenly(unmeasured, MOST_COMPARED)
    if len(compared) > 1 and (best := forecast.estimator.most_informative(compared)):
        lines.append(f"Measuring {best.name} first narrows the remaining estimates most.")
    lines += format_trainers(rows)
    unused = unused_variants(grid.study)
    lines += [f"Variants that no block of the grid names: {', '.join(unused)}."] if unused else []
    parts = [format_totals(rows), "", table, *([""] if lines else []), *lines]
    return "\n".join(parts) + "\n"


def _cells(row: PlanRow) -> list[str]:
    cell, estimate = row.cell, row.estimate
    return [
        cell.name,
        format_count(cell.params),
        f"{cell.run.data.batch_size} x {cell.run.grad_acc_steps}",
        f"{cell.tokens_per_step:,}",
        _steps(cell),
        f"{row.state} ({row.detail})" if row.detail else row.state,
        f"~{format_seconds(estimate.seconds)}" if estimate.seconds is not None else "not known",
        format_interval(estimate.seconds_low, estimate.seconds_high),
        format_known(estimate.gpu_hours, format_amount),
        (row.request or "this machine") if cell.measure else "",
    ]


def format_trainers(rows: Sequence[PlanRow]) -> list[str]:
    """Return the commands of the cells that other trainers train, and what is not known of them."""
    others = [row.cell for row in rows if row.runs and not row.cell.trainer_config.is_native]
    unknown = {
        cell.trainer
        for cell in others
        if cell.trainer_config.version and not cell.trainer_config.found_version
    }
    lines = [f"The version of trainer {name} cannot be found here." for name in sorted(unknown)]
    lines += [f"{cell.name}: {command(cell.placed)}" for cell in others[:MOST_COMMANDS]]
    left_out = len(others) - MOST_COMMANDS
    if left_out > 0:
        lines.append(f"`snakemake -n -p` prints the commands of {left_out:,} more cells.")
    return lines


def format_placements(grid: Grid) -> str:
    """Return a line for each cell whose block names several clusters: which one, and why."""
    lines: list[str] = []
    first: dict[str, str] = {}
    for cell in grid:
        if cell.placement is not None:
            leader = first.setdefault(cell.placement, cell.name)
            why = f"on {cell.cluster}, as {leader}"
            if leader == cell.name:
                why = _why_there(grid.placements.get(cell.placement), cell.cluster)
            lines.append(f"{cell.name}: {why}.\n")
    return "".join(lines)


def _why_there(placement: Placement | None, cluster: str) -> str:
    """Return why a cell is on a cluster, and since when."""
    if placement is None or placement.cluster != cluster:
        return f"on {cluster}, by `placements` of the study"
    when = format_moment(placement.decided)
    when = f"chosen {when}" if when else "not recorded yet"
    if placement.because:
        return f"on {cluster}, {placement.because} ({when})"
    told = ", ".join(f"{name} ({_expected(item)})" for name, item in placement.prospects.items())
    return f"on {cluster}, of {told}; {when}"


def _expected(item: Prospect) -> str:
    """Return what a cell could expect on a cluster, for people."""
    if item.impossible:
        return item.impossible
    known = (item.seconds, item.wait_s)
    time, wait = ("not known" if s is None else f"~{format_seconds(s)}" for s in known)
    note = f": {item.note}" if item.note else ""
    return f"time {time}, wait {'none' if item.wait_s == 0 else wait}{note}"


def _steps(cell: Cell) -> str:
    """Return a cell's steps; after them, the length that they are rounded from, and the error."""
    steps, wanted = f"{cell.run.steps:,}", cell.wanted_tokens
    if cell.start_step:
        steps += f" from {cell.start_step:,}"
    if wanted is None or cell.length is None:
        return steps
    unit = "FLOPs" if cell.length.key == "flops" else "tokens"
    off = 100 * (cell.run.steps * cell.tokens_per_step / wanted - 1)
    rounding = f", {'-' if off < 0 else '+'}{format_amount(abs(off))}%" if off else ""
    return f"{steps} ({name_value(cell.length.value)} {unit}{rounding})"


def format_budget(budget: BudgetConfig, rows: Sequence[PlanRow]) -> list[str]:
    """Return which of the cells to train fit the budget, in the grid's order.

    A cell counts with the upper end of its time, so that the cells that fit do not exceed it.
    """
    if budget.gpu_hours is None and budget.cost is None:
        return []
    fit, left_out, hours, cost = [], [], 0.0, 0.0
    for row in rows:
        high = row.estimate.seconds_high
        if not row.runs or high is None:
            continue
        own_hours = high * row.cell.gpus / 3600
        own_cost = own_hours * (row.cell.cluster_config.price_per_gpu_hour or 0.0)
        within = hours + own_hours <= (budget.gpu_hours or float("inf"))
        if within and cost + own_cost <= (budget.cost or float("inf")):
            fit.append(row.cell.name)
            hours, cost = hours + own_hours, cost + own_cost
        else:
            left_out.append(row.cell.name)
    limits = [f"{budget.gpu_hours:g} GPU-hours"] if budget.gpu_hours else []
    limits += [f"a cost of {budget.cost:g}"] if budget.cost else []
    lines = [f"Within {' and '.join(limits)}, by the upper ends: {', '.join(fit) or 'no cell'}."]
    return [*lines, f"Over budget: {', '.join(left_out)}."] if left_out else lines


def format_totals(rows: Sequence[PlanRow]) -> str:
    """Return the totals: cells by state, and the known GPU-hours, cost and energy of training.

    A run that resumes from a checkpoint counts in full.
    """
    counts = Counter(row.state for row in rows)
    states = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    waiting = [row.estimate for row in rows if row.runs]
    known = [item for item in waiting if item.gpu_hours is not None]
    cells = "1 cell" if len(rows) == 1 else f"{len(rows):,} cells"
    parts = [f"{cells}: {states}.", f"{len(waiting):,} to train"]
    if known:
        parts[1] += f", {format_amount(sum(item.gpu_hours or 0 for item in known))} GPU-hours"
        for currency in dict.fromkeys(item.currency for item in known if item.cost is not None):
            same = [item.cost or 0 for item in known if item.currency == currency]
            parts[1] += f", {sum(same):.2f} {currency}"
        if any(item.energy_kwh is not None for item in known):
            parts[1] += f", {format_amount(sum(item.energy_kwh or 0 for item in known))} kWh"
        unknown = len(waiting) - len(known)
        parts[1] += f" (not known for {unknown:,} of them)" if unknown else ""
    elif waiting:
        parts[1] += ", time not known"
    return " ".join(parts) + "."
