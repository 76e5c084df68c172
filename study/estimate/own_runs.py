"""What the measured runs of a configuration tell of another run of it."""

import math
from collections.abc import Sequence
from statistics import median

from study.estimate.intervals import PredictionInterval, around
from study.estimate.overhead import pauses
from study.estimate.spreads import Spreads
from study.grid import Cell
from study.measure.doubts import describe_divergence, describe_few, describe_load, describe_spread
from study.measure.measurement import Measurement


def find_gpu_name(cell: Cell, own: Sequence[Measurement]) -> str | None:
    """Return the GPU or CPU that the measured runs recorded; None if they recorded none."""
    names = dict.fromkeys(item.gpu_name for item in own if item.gpu_name)
    if not names:
        return None
    found = ", ".join(name.removeprefix("NVIDIA ") for name in names)
    return (
        found
        if cell.cluster_config.device == "cuda"
        else f"{cell.cluster_config.gpu_name} ({found})"
    )


def alike(cell: Cell, own: Sequence[Measurement], steps: int) -> Sequence[Measurement]:
    """Return the measurements with the pauses of a cell; all of them if there are none."""
    mine = pauses(cell, steps)
    return [item for item in own if pauses(item.cell, steps) == mine] or own


def is_whole(item: Measurement, cell: Cell, steps: int) -> bool:
    """Return whether a run of a cell with these steps was measured as a whole."""
    whole = item.uninterrupted and item.wall_s is not None and item.cell.run.steps == steps
    return whole and pauses(item.cell, steps) == pauses(cell, steps)


def another_run(runs: Sequence[PredictionInterval]) -> PredictionInterval:
    """Return the median over runs, with the interval of another run.

    `runs`: the value of each, with the interval in which that of another run like it may be.
    """
    values = [run.middle for run in runs]
    middle = median(values)
    low = middle - median(run.middle - run.low for run in runs)
    high = middle + median(run.high - run.middle for run in runs)
    # Of more runs, some are outside the 80% interval.
    if len(runs) <= 9:
        low, high = min(low, *values), max(high, *values)
    return PredictionInterval(low, middle, high)


def measured_step(own: Sequence[Measurement], spreads: Spreads) -> PredictionInterval:
    """Return the median over runs of the mean step time, s, with the interval of another run."""
    spread = spread_of_another(spreads.step, len(own))
    return another_run([around(item.mean_step_s, spread, spreads.error(item)) for item in own])


def spread_of_another(spread: float, runs: int) -> float:
    """Return the standard deviation of another run from the mean of these runs."""
    return spread * math.sqrt(1 + 1 / runs)


def find_source(cell: Cell, own: Sequence[Measurement]) -> str:
    """Return who measured a cell's speed or, if other cells of the study did, the first of them;
    empty if a run of the cell itself did."""
    sources = dict.fromkeys(item.source for item in own if item.source)
    ours = [item.cell for item in own if not item.source]
    if ours and not any(other.configuration == cell.configuration for other in ours):
        sources = {ours[0].name: None, **sources}
    return ", ".join(sources)


def find_doubt(own: Sequence[Measurement]) -> str:
    """Return why a cell's measurements may be unreliable: spread and load are of its worst seed."""
    spread = max((p90 - p10) / p50 for p10, p50, p90 in (item.step_s for item in own))
    loads = [
        (item.machine_load / item.machine_cores, item.machine_load, item.machine_cores)
        for item in own
        if item.machine_load is not None and item.machine_cores
    ]
    _, load, cores = max(loads, default=(None, None, None))
    unknown = all(item.steady_steps is None for item in own)
    intervals = [item.steady_intervals for item in own if item.steady_intervals is not None]
    warnings = [
        describe_divergence([item.steps_done for item in own if item.diverged], len(own)),
        describe_load(load, cores),
        describe_spread(spread),
        describe_few(max(intervals, default=None)),
        "over an unknown number of steps" if unknown else "",
    ]
    return ", ".join(filter(None, warnings))
