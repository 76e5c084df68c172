"""How long a run takes: read off where it was measured, estimated from FLOPs where it was not.

The first estimator. Verified: start-up and step time of the cell's own completed runs. Estimated:
the model FLOPs of a step over the FLOP/s per GPU that the nearest measured cells of the same
cluster achieved, plus the median start-up there. Reads throughput.csv; imports no pandas.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from tabulate import tabulate

from study.grid import CELL_NAME, Cell, Grid
from trainer.config import ConfigError
from trainer.flops import flops_per_token

NEAREST = 3
"""Measured configurations that an estimate rests on, at most."""

WIDEN = 1.25
"""Factor on both ends of the measured range, once more for every factor e to the nearest.

Not calibrated: a guess that utilisation changes by less than a quarter over a factor e in size.
"""

SINGLE = 2.0
"""Factor either way, at least, where a single measured configuration says all that is known."""


@dataclass(frozen=True)
class Measurement:
    """What the estimator uses of a row of throughput.csv, and the cell that was measured."""

    cell: Cell
    completed: bool
    """The run has ended, with all its steps or with a loss that is not finite."""
    uninterrupted: bool
    """All steps were done in one attempt, so that wall_s is what the run took."""
    step_s: tuple[float, float, float]
    """10th, 50th and 90th percentile of the step time, s."""
    tflops_per_gpu: float
    """Model TFLOP/s that each GPU achieved."""
    startup_s: float | None
    """From process start to the end of the first step, s."""
    wall_s: float | None
    """The whole run, s."""


@dataclass(frozen=True)
class Estimate:
    """A row of the time table. Times are empty where the cluster has no measurement."""

    cluster: str
    model: str
    params: int
    gpus: int
    tokens_per_step: int
    steps: int
    seconds: float | None
    """Time of the run with its start-up."""
    seconds_low: float | None
    """Lower end of the interval."""
    seconds_high: float | None
    """Upper end of the interval."""
    gpu_hours: float | None
    """seconds * gpus / 3600."""
    basis: str
    """Verified: this configuration was measured; Estimated: it was not."""
    method: str
    """How `seconds` came about."""
    variant: str
    startup_s: float | None
    """Start-up that `seconds` holds."""
    step_s: float | None
    """Time of a step."""
    gpu_name: str


def read_measurements(csv_path: str | Path, grid: Grid) -> list[Measurement]:
    """Return the rows of throughput.csv that have a speed and belong to cells as they are now.

    Raises ConfigError where the file cannot be read, or is no throughput table.
    """
    try:
        with Path(csv_path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(csv_path), [f"cannot be read: {error}"]) from None
    cells = {(cell.name, cell.run.fingerprint(cell.gpus)): cell for cell in grid}
    measurements = []
    for number, row in enumerate(rows, start=2):
        try:
            name = CELL_NAME.format(**row)
            cell = cells.get((name, row["fingerprint"]))
            if cell is not None and row["step_ms_p50"]:
                measurements.append(_measurement(cell, row))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"line {number}: not a row of a throughput table: {error!r}"
            raise ConfigError(str(csv_path), [problem]) from None
    return measurements


def _measurement(cell: Cell, row: dict[str, str]) -> Measurement:
    p10, p50, p90 = (float(row[f"step_ms_{name}"]) / 1e3 for name in ("p10", "p50", "p90"))
    return Measurement(
        cell=cell,
        completed=row["status"] == "completed",
        uninterrupted=row["outcome"] == "trained" and row["attempts"] == "1",
        step_s=(p10, p50, p90),
        tflops_per_gpu=float(row["tflops_per_gpu"]),
        startup_s=float(row["startup_s"]) if row["startup_s"] else None,
        wall_s=float(row["wall_s"]) if row["wall_s"] else None,
    )


def estimate_table(grid: Grid, measurements: Sequence[Measurement]) -> list[Estimate]:
    """Return a row for each configuration in the grid's order, for study.estimate.steps steps.

    A configuration is (cluster, model, gpus, variant): its seeds are pooled.
    """
    cells = {_configuration(cell): cell for cell in reversed(grid)}
    ordered = dict.fromkeys(_configuration(cell) for cell in grid)
    steps = grid.study.estimate.steps
    return [estimate_cell(cells[key], measurements, steps) for key in ordered]


def estimate_cell(cell: Cell, measurements: Sequence[Measurement], steps: int) -> Estimate:
    """Return the time that `steps` steps of a cell take."""
    own = [
        item
        for item in measurements
        if item.completed
        and item.startup_s is not None
        and _configuration(item.cell) == _configuration(cell)
    ]
    return _verified(cell, own, steps) if own else _estimated(cell, measurements, steps)


def _configuration(cell: Cell) -> tuple[str, str, int, str]:
    return cell.cluster, cell.model, cell.gpus, cell.variant


def _verified(cell: Cell, own: Sequence[Measurement], steps: int) -> Estimate:
    """Return the measured time: the median over seeds, from the lowest to the highest interval.

    A seed's interval is what its run takes if every step takes the 10th, or the 90th, percentile.
    """
    low, middle, high, walls = [], [], [], 0
    for item in own:
        p10, p50, p90 = item.step_s
        seconds = (item.startup_s or 0.0) + steps * p50
        if item.uninterrupted and item.wall_s is not None and item.cell.run.steps == steps:
            seconds, walls = item.wall_s, walls + 1
        low.append(seconds - steps * (p50 - p10))
        middle.append(seconds)
        high.append(seconds + steps * (p90 - p50))
    return _estimate(
        cell,
        steps,
        seconds=(min(low), median(middle), max(high)),
        startup_s=median(item.startup_s or 0.0 for item in own),
        step_s=median(item.step_s[1] for item in own),
        basis="Verified",
        method="wall-clock time of the run" if walls == len(own) else "start-up + steps x step p50",
    )


def _estimated(cell: Cell, measurements: Sequence[Measurement], steps: int) -> Estimate:
    here = [item for item in measurements if item.cell.cluster == cell.cluster]
    startups = [item.startup_s for item in here if item.startup_s is not None]
    if not here or not startups:
        missing = "measurement" if not here else "start-up measured"
        method = f"no {missing} on {cell.cluster} yet"
        return _estimate(cell, steps, None, None, None, "Estimated", method)
    distance, speeds = _nearest(cell, here)
    # A cell that was measured but has not ended is its own nearest neighbour, at distance 0.
    widen = WIDEN ** (1 + distance)
    if len(speeds) == 1 and distance > 0:
        widen = max(SINGLE, widen)
    data = cell.run.data
    per_token = flops_per_token(cell.run.model, data.tokenizer.vocab_size, data.seq_len)
    tflops_per_step = per_token * cell.tokens_per_step / cell.gpus / 1e12
    step_s = tflops_per_step / median(speeds)
    return _estimate(
        cell,
        steps,
        seconds=(
            min(startups) + steps * tflops_per_step / max(speeds) / widen,
            median(startups) + steps * step_s,
            max(startups) + steps * tflops_per_step / min(speeds) * widen,
        ),
        startup_s=median(startups),
        step_s=step_s,
        basis="Estimated",
        method=(
            f"FLOPs at {median(speeds):.3g} TFLOP/s per GPU, "
            f"from {len(speeds)} measured on {cell.cluster}"
        ),
    )


def _nearest(cell: Cell, here: Sequence[Measurement]) -> tuple[float, list[float]]:
    """Return the distance to the nearest measured configuration, and TFLOP/s of the nearest few.

    The distance is |ln of the ratio of parameters| + |ln of the ratio of GPU counts|. Only the
    cell's own variant counts where it was measured, as a variant may change the speed itself.
    """
    alike = [item for item in here if item.cell.variant == cell.variant] or here
    found: dict[tuple[str, str, int, str], tuple[float, list[float]]] = {}
    for item in alike:
        other = item.cell
        distance = abs(math.log(other.params / cell.params))
        distance += abs(math.log(other.gpus / cell.gpus))
        found.setdefault(_configuration(other), (distance, []))[1].append(item.tflops_per_gpu)
    ranked = sorted(found.values(), key=lambda pair: pair[0])
    own = found.get(_configuration(cell))
    chosen = [own] if own else ranked[:NEAREST]
    return chosen[0][0], [median(speeds) for _, speeds in chosen]


def _estimate(
    cell: Cell,
    steps: int,
    seconds: tuple[float, float, float] | None,
    startup_s: float | None,
    step_s: float | None,
    basis: str,
    method: str,
) -> Estimate:
    low, middle, high = seconds or (None, None, None)
    return Estimate(
        cluster=cell.cluster,
        model=cell.model,
        params=cell.params,
        gpus=cell.gpus,
        tokens_per_step=cell.tokens_per_step,
        steps=steps,
        seconds=middle,
        seconds_low=low,
        seconds_high=high,
        gpu_hours=None if middle is None else middle * cell.gpus / 3600,
        basis=basis,
        method=method,
        variant=cell.variant,
        startup_s=startup_s,
        step_s=step_s,
        gpu_name=cell.place.gpu_name,
    )


def to_csv(estimates: Sequence[Estimate]) -> str:
    """Return the text of time_estimates.csv; what is not known is an empty cell."""
    text = io.StringIO()
    names = [field.name for field in fields(Estimate)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for estimate in estimates:
        values = asdict(estimate)
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()})
    return text.getvalue()


def read_estimates(csv_path: str | Path) -> list[Estimate]:
    """Return the rows of a time_estimates.csv. Raises ConfigError."""
    try:
        with Path(csv_path).open(encoding="utf-8", newline="") as file:
            return [_parse(row) for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(csv_path), [f"cannot be read: {error}"]) from None
    except (KeyError, TypeError, ValueError) as error:
        problem = f"not a time-estimate table: {error!r}; write it again with `estimate`"
        raise ConfigError(str(csv_path), [problem]) from None


def _parse(row: dict[str, Any]) -> Estimate:
    values: dict[str, Any] = {}
    for field in fields(Estimate):
        text = row[field.name]
        if field.type is int:
            values[field.name] = int(text)
        elif field.type is str:
            values[field.name] = text
        else:
            values[field.name] = float(text) if text else None
    return Estimate(**values)


def readable(estimates: Sequence[Estimate]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people: the columns of the table that groups keep by hand."""
    steps = estimates[0].steps if estimates else 0
    headings = ["Model Size", "Params", "GPUs", "Tokens/Step", f"{steps} Steps Time"]
    rows = []
    for item in estimates:
        variant = "" if item.variant == "base" else f" ({item.variant})"
        rows.append(
            [
                item.model + variant,
                format_count(item.params, 3),
                f"{item.gpus}x {item.gpu_name}",
                format_count(item.tokens_per_step, 2),
                "" if item.seconds is None else f"~{format_seconds(item.seconds)}",
                _format_interval(item.seconds_low, item.seconds_high),
                item.basis if item.seconds is not None else f"{item.basis}; {item.method}",
            ]
        )
    return [*headings, "Interval", "Notes"], rows


def to_markdown(estimates: Sequence[Estimate]) -> str:
    """Return the time table for people."""
    headings, rows = readable(estimates)
    return tabulate(rows, headings, "pipe", disable_numparse=True) + "\n"


def format_count(number: float, digits: int) -> str:
    """Return a count with K, M or B: 27.5M for 27,535,872; 131K for 131,072."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            # As many digits as asked for, but all that stand before the point.
            value = number / size
            return f"{value:.0f}{letter}" if value >= 10**digits else f"{value:.{digits}g}{letter}"
    return f"{number:.0f}"


def format_seconds(seconds: float) -> str:
    """Return a time in two digits and the unit that suits it: 2.5 min for 149 s."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= (0.995 if unit != "days" else 2) * size:
            return f"{_two_digits(seconds / size)} {unit}"
    return f"{_two_digits(seconds)} s"


def _two_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _format_interval(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"{format_seconds(low)} to {format_seconds(high)}"
