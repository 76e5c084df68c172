"""The first screen of the report: what was asked, and what was found, as sentences and a table."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, median
from typing import Any

from study.formats import format_count, format_number_of
from study.grid import Cell, Configuration, Grid
from study.kinds import kinds_heading, name_kind, names_trainers
from study.measure.repeats import BETWEEN_RUNS
from study.measure.throughput_row import ThroughputRow
from study.measure.throughput_table import mark_of
from study.sequences import group_by
from study.trainers import DEFAULT_TRAINER

MOST_LISTED = 6
"""Names in a sentence; the last stands for all others if there are more."""


@dataclass(frozen=True)
class Value:
    """A configuration in a matrix: the means over its seeds, without those that diverged unless all
    did. Unknown values are None."""

    speed: float | None
    """Tokens/s/GPU."""
    efficiency: float | None
    mfu: float | None
    runs: int
    state: str
    """Why there is no speed; empty if there is one."""

    @property
    def shade_of_efficiency(self) -> float:
        """0 at 50% or less, 1 at 100% or more."""
        return min(1.0, max(0.0, 2 * (self.efficiency or 0.0) - 1))


@dataclass(frozen=True)
class Matrix:
    """The speeds of a study: by GPU count or, if there is only one, by model."""

    by_gpus: bool
    """The columns are GPU counts, and the rows models; otherwise models, and the rows variants or
    trainers."""
    corner: str
    """Heading of the rows' labels."""
    headings: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Value | None]]]
    """Label and, for each heading, its value; None if the grid has no such cell."""

    @property
    def _mfus(self) -> list[float]:
        found = (value.mfu for _, row in self.rows for value in row if value is not None)
        return [mfu for mfu in found if mfu is not None]

    @property
    def has_efficiency(self) -> bool:
        """The scaling efficiency of any configuration is known, and the columns are GPU counts."""
        values = (value for _, row in self.rows for value in row if value is not None)
        return self.by_gpus and any(value.efficiency is not None for value in values)

    @property
    def has_mfu(self) -> bool:
        """The utilisation of any configuration is known."""
        return bool(self._mfus)

    @property
    def highest_mfu(self) -> float:
        """The highest utilisation; 1 if none is known."""
        return max(self._mfus, default=1.0)

    def shade_of_mfu(self, value: Value) -> float:
        """Return 1 for the highest utilisation, 0.1 for the lowest."""
        low, high = min(self._mfus), max(self._mfus)
        return 1.0 if high == low else 0.1 + 0.9 * ((value.mfu or 0.0) - low) / (high - low)


def build_matrix(
    grid: Grid, rows: Sequence[tuple[Cell, ThroughputRow]], states: dict[str, str]
) -> Matrix:
    """Return the matrix of a study's cells; `states`: name of a cell -> its state for people."""
    by_gpus = len({cell.gpus for cell in grid}) > 1
    of_column: Callable[[Cell], Any] = (lambda c: c.gpus) if by_gpus else (lambda c: c.model)
    columns = list(dict.fromkeys(of_column(cell) for cell in grid))
    if by_gpus:
        columns.sort()
    measured: dict[Configuration, list[ThroughputRow]] = {}
    for cell, row in rows:
        measured.setdefault(cell.configuration, []).append(row)
    label = _row_labels(grid, by_gpus)
    found: dict[str, dict[Any, Value]] = {}
    for cell in grid.configurations:
        value = _value(measured.get(cell.configuration, []), states.get(cell.name, ""))
        found.setdefault(label(cell), {})[of_column(cell)] = value
    if by_gpus:
        headings = [format_number_of(count, "GPU") for count in columns]
    else:
        headings = [str(name) for name in columns]
    lines = [(name, [values.get(c) for c in columns]) for name, values in found.items()]
    return Matrix(by_gpus, "Model" if by_gpus else kinds_heading(grid), headings, lines)


def _row_labels(grid: Grid, by_gpus: bool) -> Callable[[Cell], str]:
    """Return the function that names a cell's row, by what differs between the cells."""
    clusters, kinds = ({getattr(c, axis) for c in grid} for axis in ("cluster", "variant"))
    with_trainer = names_trainers(grid)

    def label(cell: Cell) -> str:
        parts = [f"{cell.model} ({format_count(cell.params)})"] if by_gpus else []
        if not by_gpus or (len(kinds) > 1 and (with_trainer or cell.variant != "base")):
            parts.append(name_kind(cell, with_trainer))
        return ", ".join([*parts, *([cell.cluster] if len(clusters) > 1 else [])])

    return label


def _value(rows: Sequence[ThroughputRow], state: str) -> Value:
    steady = [row for row in rows if row.outcome != "diverged"] or rows

    def mean(name: str) -> float | None:
        known = [value for row in steady if (value := getattr(row, name)) is not None]
        return fmean(known) if known else None

    speed = mean("tokens_per_s_per_gpu")
    why = "" if speed is not None else state or "no steady state"
    return Value(speed, mean("scaling_efficiency"), mean("mfu"), len(steady), why)


def describe_request(grid: Grid) -> str:
    """Return what a study asks, in a sentence or two."""
    measured = grid.measured or list(grid)
    models = list(dict.fromkeys(cell.model for cell in measured))
    clusters = dict.fromkeys(f"{c.cluster} ({c.cluster_config.gpu_name})" for c in measured)
    trainers = dict.fromkeys(cell.trainer for cell in measured)
    variants = dict.fromkeys(cell.plain_variant for cell in measured)
    seeds = {cell.seed for cell in measured}
    sizes = _range(cell.params for cell in measured)
    parts = [f"{format_number_of(len(models), 'model')} of {sizes} parameters"]
    counts = sorted({cell.gpus for cell in measured})
    parts.append(f"on {_gpu_counts(counts)} of {_listed(clusters)}")
    if names_trainers(grid):
        parts.append(f"by {format_number_of(len(trainers), 'trainer')} ({_listed(trainers)})")
    if [*variants] != ["base"]:
        parts.append(f"in {format_number_of(len(variants), 'variant')} ({_listed(variants)})")
    if len(seeds) > 1:
        parts.append(f"with {len(seeds)} seeds")
    steps = _range(cell.run.steps for cell in measured)
    tokens = _range(cell.tokens_per_step for cell in measured)
    text = f"{format_number_of(len(grid.measured), 'cell')} to measure: {', '.join(parts)}."
    return f"{text} Runs take {steps} steps of {tokens} tokens."


def describe_findings(rows: Sequence[tuple[Cell, ThroughputRow]], by_gpus: bool) -> list[str]:
    """Return what the measurements show, a sentence for each finding; runs that diverged are left
    out."""
    measured, rows = rows, [it for it in rows if it[1].outcome != "diverged"]
    known = [(cell, row) for cell, row in rows if row.tokens_per_s_per_gpu]
    if not known:
        return ["Every run measured so far has diverged."] if measured and not rows else []
    with_trainer = names_trainers(cell for cell, _ in rows)
    with_cluster = len({cell.cluster for cell, _ in rows}) > 1
    short = partial(_short, with_trainer, with_cluster)
    found = [_fastest(known, short)]
    if by_gpus:
        found += _scaling(known, with_trainer, with_cluster)
    if with_trainer:
        found += _fastest_of("trainer", DEFAULT_TRAINER, _by_trainer(known, by_gpus))
    if not by_gpus:
        found += _fastest_of("variant", "base", _by_variant(known, with_trainer))
    losses = [(row.val_loss, cell) for cell, row in rows if row.val_loss is not None]
    if losses:
        loss, cell = min(losses, key=lambda item: item[0])
        text = f"The lowest held-out loss is {loss:.3f} nats per token: {short(cell)}."
        if len({cell.trainer for _, cell in losses}) > 1:
            text += " Losses of several trainers compare only if they read the same text."
        found.append(text)
    return found


def _fastest(known: Sequence[tuple[Cell, ThroughputRow]], short: Callable[..., str]) -> str:
    repeats = group_by(
        known, lambda it: (it[0].cluster, it[0].trainer, it[1].speed_key or it[0].name)
    )
    best, speed = _highest("tokens_per_s", repeats.values(), short)
    text = f"The highest throughput is {speed:,.0f} tokens/s: {best}."
    rated = [runs for runs in repeats.values() if any(row.mfu is not None for _, row in runs)]
    if rated:
        best, mfu = _highest("mfu", rated, short)
        text += f" The highest MFU is {mfu:.1%}{mark_of(mfu)}: {best}."
    return text


def _highest(
    column: str,
    repeats: Iterable[Sequence[tuple[Cell, ThroughputRow]]],
    short: Callable[..., str],
) -> tuple[str, float]:
    """Return which cells have the highest mean of a column over their repeats, and that mean.

    Among the repeats are variants that cannot differ in speed, such as two learning rates.
    """
    means = [(runs, fmean(getattr(row, column) or 0.0 for _, row in runs)) for runs in repeats]
    runs, value = max(means, key=lambda item: item[1])
    cell = runs[0][0]
    variants = {cell.plain_variant for cell, _ in runs}
    text = short(cell, with_variant=len(variants) == 1)
    return text + (f" (mean of {len(runs)} runs)" if len(runs) > 1 else ""), value


def _scaling(
    known: Sequence[tuple[Cell, ThroughputRow]], with_trainer: bool, with_cluster: bool
) -> list[str]:
    """Return the efficiency on the largest GPU count of each cluster, of each trainer."""
    sentences = []
    for cluster, rows in group_by(known, lambda item: item[0].cluster).items():
        rated = [(cell, row.scaling_efficiency) for cell, row in rows if row.scaling_efficiency]
        largest = max((cell.gpus for cell, _ in rated), default=0)
        if largest == min(cell.gpus for cell, _ in rows):
            continue
        there = [(cell, value) for cell, value in rated if cell.gpus == largest]
        for trainer, cells in group_by(there, lambda item: item[0].trainer).items():
            where = f"On {largest} GPUs" + (f" of {cluster}" if with_cluster else "")
            of = f" of {trainer}" if with_trainer else ""
            span = _span([value for _, value in cells])
            sentences.append(f"{where} the scaling efficiency{of} is {span}.")
    return [" ".join(sentences)] if sentences else []


def _span(values: Sequence[float]) -> str:
    """Return the median of some efficiencies and, of several, their range."""
    middle = f"{median(values):.0%}"
    if len(values) == 1:
        return middle
    return f"{middle} (median; {min(values):.0%} to {max(values):.0%} over {len(values)} runs)"


Speeds = dict[str, dict[str, list[float]]]
"""What cells have in common -> what they differ in -> tokens/s/GPU of each run."""


def _by_trainer(known: Sequence[tuple[Cell, ThroughputRow]], by_gpus: bool) -> Speeds:
    several = len({cell.cluster for cell, _ in known}) > 1
    speeds: Speeds = {}
    for cell, row in known:
        alike = cell.model
        alike += "" if cell.plain_variant == "base" else f" in variant {cell.plain_variant}"
        alike += f" on {format_number_of(cell.gpus, 'GPU')}" if by_gpus else ""
        alike += f" of {cell.cluster}" if by_gpus and several else ""
        alike += f" on {cell.cluster}" if several and not by_gpus else ""
        of_trainer = speeds.setdefault(alike, {}).setdefault(cell.trainer, [])
        of_trainer.append(row.tokens_per_s_per_gpu or 0.0)
    return speeds


def _by_variant(known: Sequence[tuple[Cell, ThroughputRow]], with_trainer: bool) -> Speeds:
    """Variants that cannot differ in speed, such as two learning rates, are under the first one."""
    several = len({cell.cluster for cell, _ in known}) > 1
    speeds: Speeds = {}
    names: dict[tuple[str, str], str] = {}
    for cell, row in sorted(known, key=lambda item: item[0].plain_variant != "base"):
        alike = cell.model + (f" by {cell.trainer}" if with_trainer else "")
        alike += f" on {cell.cluster}" if several else ""
        name = names.setdefault((alike, row.speed_key or cell.name), cell.plain_variant)
        of_variant = speeds.setdefault(alike, {}).setdefault(name, [])
        of_variant.append(row.tokens_per_s_per_gpu or 0.0)
    return speeds


def _fastest_of(noun: str, base: str, speeds: Speeds) -> list[str]:
    """Return which variant or trainer is the fastest beside `base`, or else the first, where most
    are measured."""
    alike, compared = max(speeds.items(), key=lambda item: len(item[1]))
    if len(compared) < 2:
        return []
    base = base if base in compared else next(iter(compared))
    means = {name: fmean(values) for name, values in compared.items()}
    best = max(means, key=lambda name: means[name])
    if means[best] < (1 + BETWEEN_RUNS) * means[base]:
        return [f"No {noun} of {alike} is faster than {base} by more than {BETWEEN_RUNS:.0%}."]
    return [f"The fastest {noun} of {alike} is {best}: {means[best] / means[base]:.2f} × {base}."]


def _short(with_trainer: bool, with_cluster: bool, cell: Cell, with_variant: bool = True) -> str:
    cluster = f" of {cell.cluster}" if with_cluster else ""
    trainer = f" by {cell.trainer}" if with_trainer else ""
    variant = "" if cell.plain_variant == "base" or not with_variant else f", {cell.plain_variant}"
    return f"{cell.model} on {format_number_of(cell.gpus, 'GPU')}{cluster}{trainer}{variant}"


def _gpu_counts(counts: Sequence[int]) -> str:
    """Return the GPU counts of a study, given in ascending order."""
    if len(counts) > MOST_LISTED:
        return f"{counts[0]} to {counts[-1]} GPUs ({len(counts)} counts)"
    return f"{_listed(counts)} GPU{'s' if [*counts] != [1] else ''}"


def _range(numbers: Any) -> str:
    ordered = sorted(set(numbers))
    texts = dict.fromkeys(format_count(value) for value in (ordered[0], ordered[-1]))
    return " to ".join(texts)


def _listed(items: Any) -> str:
    names = [str(item) for item in items]
    if len(names) > MOST_LISTED:
        names = [*names[: MOST_LISTED - 1], f"{len(names) - MOST_LISTED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
