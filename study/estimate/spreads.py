"""How much runs of one configuration differ on a cluster, in speed and in start-up."""

import math
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass

from study.estimate.overhead import pauses
from study.measure.measurement import Measurement
from study.measure.repeats import relative_spread

BETWEEN_STARTS = 0.1
"""Spread between runs of what a run does besides its steps if none was repeated, relative. Start-up
reads files and compiles: on two shared cores it was 0.1 to 0.2."""

BETWEEN_INTERVALS = 0.1
"""Spread of the step time between the intervals of a run of which only one was measured, relative.
On shared cores and on GPUs it was 0.01 to 0.09."""

INTERVAL_STEPS = 10
"""Steps that count as one interval at most: a mean of many is as good as that of several."""

TRUSTED = 3
"""Weight of what other runs show of the spread between intervals, in degrees of freedom."""

Value = Callable[[Measurement], float | None]


@dataclass(frozen=True)
class Spreads:
    """Standard deviations between runs of one configuration, relative."""

    step: float
    """Of the mean step time."""
    startup: float
    """Of the start-up."""
    outside: float
    """Of all that a whole run takes outside of its steps: start-up, saves, evaluations, end."""
    interval: float
    """Of the step time between the intervals of a run."""

    def error(self, item: Measurement) -> float:
        """Return the standard error of a run's mean step time, relative.

        The spread of a few intervals is hardly known, so that it is taken together with that of
        the intervals of other runs. A speed that comes without its number of steps has none.
        """
        own, count = (item.mean_error_s or 0.0) / item.mean_step_s, _count_intervals(item)
        # An earlier version's table has the error, but not how many intervals it is from.
        if not count or (item.mean_error_s is not None and item.steady_intervals is None):
            return own
        degrees = 0 if item.mean_error_s is None else (item.steady_intervals or 1) - 1
        usual = self.interval**2 / count
        return math.sqrt((degrees * own**2 + TRUSTED * usual) / (degrees + TRUSTED))


def find_spreads(measurements: Sequence[Measurement]) -> Spreads:
    """Return the spreads of all runs of a trainer on a cluster."""
    steps, startups = (
        _repeated(measurements, value, lambda item: item.cell.speed_key)
        for value in (lambda item: item.mean_step_s, lambda item: item.startup_s)
    )
    outside = _repeated(measurements, lambda item: item.outside_s, _whole_run)
    return Spreads(
        step=relative_spread(steps),
        startup=relative_spread(startups, BETWEEN_STARTS),
        outside=relative_spread(outside, BETWEEN_STARTS),
        interval=_between_intervals(measurements),
    )


def _whole_run(item: Measurement) -> Hashable:
    steps = item.cell.run.steps
    return item.cell.speed_key, steps, pauses(item.cell, steps)


def _repeated(
    measurements: Sequence[Measurement], value: Value, alike: Callable[[Measurement], Hashable]
) -> Collection[list[float]]:
    """Return the known values of the runs that are alike, those above 0."""
    groups: dict[Hashable, list[float]] = {}
    for item in measurements:
        found = value(item)
        if found is not None and found > 0:
            groups.setdefault(alike(item), []).append(found)
    return groups.values()


def _between_intervals(measurements: Sequence[Measurement]) -> float:
    """Return the spread between the intervals of a run, from all runs with several.

    `BETWEEN_INTERVALS` counts as one pair.
    """
    square, degrees = BETWEEN_INTERVALS**2, 1
    for item in measurements:
        if item.mean_error_s is not None and item.steady_intervals is not None:
            own = item.mean_error_s / item.mean_step_s
            square += (item.steady_intervals - 1) * _count_intervals(item) * own**2
            degrees += item.steady_intervals - 1
    return math.sqrt(square / degrees)


def _count_intervals(item: Measurement) -> float:
    """Return in how many intervals the steps of a run count as measured; 0 if it is not known."""
    return max(item.steady_intervals or 0, (item.steady_steps or 0) / INTERVAL_STEPS)
