"""Measured configurations, as a performance model is fitted to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeAlias

from study.estimate.overhead import rest_terms
from study.measure.measurement import Measurement
from study.sequences import group_by
from study.workload import Workload, workload

Rest: TypeAlias = tuple[dict[str, float], float]
"""The `rest_terms` of a whole run, and the seconds that they stand for."""


@dataclass(frozen=True)
class Observed:
    """A measured configuration, with the medians over its runs."""

    work: Workload
    step_s: float
    startup_s: float | None
    """Without the first step."""
    peak_memory_gib: float | None
    rests: tuple[Rest, ...] = ()
    """Of whole runs, outside start-up and steps."""
    rests_with_startup: tuple[Rest, ...] = ()
    """Of whole runs whose start-up was not recorded, outside their steps."""
    speed_key: str = ""
    """`RunConfig.speed_key` of its runs."""


def observe(measurements: Sequence[Measurement]) -> list[Observed]:
    """Return each measured configuration once: seeds are pooled."""
    return [
        Observed(
            work=workload(items[0].cell, items[0].model_dtype),
            step_s=median(item.mean_step_s for item in items),
            startup_s=_middle([_startup_before_step(item) for item in items]),
            peak_memory_gib=_middle([item.peak_memory_gib for item in items]),
            rests=tuple(rest for item in items if (rest := _rest(item)) is not None),
            rests_with_startup=tuple(
                rest for item in items if (rest := _rest_with_startup(item)) is not None
            ),
            speed_key=key,
        )
        for key, items in group_by(measurements, lambda item: item.cell.speed_key).items()
    ]


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _startup_before_step(item: Measurement) -> float | None:
    return None if item.startup_s is None else max(0.1, item.startup_s - item.mean_step_s)


def _rest(item: Measurement) -> Rest | None:
    """Return what a whole run did outside start-up and steps; None if that is not known."""
    if item.outside_s is None or item.startup_s is None:
        return None
    # It may be negative if nothing else was done and the first steps were fast.
    return _terms(item), max(0.1, item.outside_s - item.startup_s)


def _rest_with_startup(item: Measurement) -> Rest | None:
    """Return what a whole run did outside its steps if its start-up was not recorded; otherwise
    None.

    One whose steps take longer than the whole contradicts itself and says nothing.
    """
    outside_s = item.outside_s if item.startup_s is None else None
    if outside_s is None or outside_s <= item.mean_step_s:
        return None
    return _terms(item), outside_s - item.mean_step_s


def _terms(item: Measurement) -> dict[str, float]:
    return rest_terms(item.cell, item.cell.run.steps, item.mean_step_s)
