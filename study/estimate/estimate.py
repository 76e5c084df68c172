"""How long a run takes: from its own measurements, or else from the performance model.

Verified: from the start-up and step times of completed runs of the configuration, by the study or
by a source in its `evidence`. Estimated: by the trainer's performance model on the cluster, which
interpolates between measurements or extrapolates from them; or from measured steps, if they are
known from a log alone, which has no start-up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from study.estimate.basis import MEASURED_STEPS, VERIFIED, find_basis
from study.estimate.performance import (
    MOST,
    Performance,
    PredictionInterval,
    add,
    observe,
    spread,
)
from study.estimate.regression import Z80
from study.grid import Cell, Grid
from study.horizon import horizon_steps
from study.measure.flags import describe_load, describe_spread
from study.measure.measurement import Measurement
from study.measure.repeats import speed_spread
from study.trainers import DEFAULT_TRAINER
from study.workload import workload

PREDICTED_STARTUP = "predicted start-up + steps x mean step"
"""Method of an estimate whose step time was measured, but not its start-up."""

FAR = 10
"""Factor on the measured steps beyond which a verified speed may not hold for the whole run: rare
slowdowns (throttling, a slow file system, a neighbour) may not have been measured."""


@dataclass(frozen=True)
class Estimate:
    """A row of the time table. Times are empty if nothing is known about the cluster."""

    cluster: str
    model: str
    params: int
    gpus: int
    tokens_per_step: int
    steps: int
    seconds: float | None
    """Time of the run with start-up, saves and evaluations."""
    seconds_low: float | None
    """Lower end of its 80% prediction interval."""
    seconds_high: float | None
    """Upper end of its 80% prediction interval."""
    gpu_hours: float | None
    """seconds * gpus / 3600."""
    basis: str
    """Verified, or Estimated: by interpolation, by extrapolation, or from measured steps."""
    method: str
    """How `seconds` was derived, and what makes it uncertain."""
    variant: str
    startup_s: float | None
    """Start-up in `seconds`, including the first step."""
    step_s: float | None
    """Step time."""
    gpu_name: str
    step_s_low: float | None
    """Lower end of its 80% prediction interval."""
    step_s_high: float | None
    """Upper end of its 80% prediction interval."""
    horizon: str
    """Horizon as in the study file, such as '500 steps' or 'chinchilla'."""
    tokens: int
    """Tokens of the run."""
    cost: float | None
    """gpu_hours * the cluster's price, in `currency`."""
    currency: str
    energy_kwh: float | None
    """gpu_hours * the cluster's measured power of a GPU."""
    memory_gib: float | None
    """Peak memory of a GPU, GiB; predicted if it was not measured."""
    memory_gib_high: float | None
    """Upper end of its 80% prediction interval, GiB."""
    by: str = ""
    """Who measured, if not the study itself; otherwise empty."""
    measured_steps: int | None = None
    """Measured steps, if `steps` is far more: the speed is verified, the length extrapolated."""
    doubt: str = ""
    """Why the measurement behind `seconds` may be unreliable; otherwise empty."""
    trainer: str = DEFAULT_TRAINER
    plain_variant: str = ""
    """The variant's name without the trainer's."""


class Estimator:
    """Estimates for any cell and number of steps, from a study's measurements."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        """Keep the measurements; the model of each trainer on each cluster is fitted when it is
        first needed."""
        self._measured: dict[tuple[str, str], list[Measurement]] = {}
        self._own: dict[tuple[str, str], list[Measurement]] = {}
        for item in measurements:
            cluster = item.cell.cluster
            self._measured.setdefault(item.cell.measured_with, []).append(item)
            self._own.setdefault((cluster, item.cell.speed_key), []).append(item)
        self._models: dict[tuple[str, str], Performance] = {}
        self._spreads: dict[tuple[str, str], float] = {}

    def model(self, cell: Cell) -> Performance:
        """Return the performance model of a cell's trainer on its cluster."""
        key = cell.measured_with
        if key not in self._models:
            here = observe(self._measured.get(key, []))
            self._models[key] = Performance(cell.cluster_config, here)
        return self._models[key]

    def estimate(self, cell: Cell, steps: int, horizon: str = "") -> Estimate:
        """Return the time of a run of a cell with `steps` steps."""
        measured = self._own.get((cell.cluster, cell.speed_key), [])
        own = [item for item in measured if item.completed]
        # The study's own measurements take precedence over evidence.
        ours = [item for item in own if not item.source]
        if ours or own:
            return self._verified(cell, ours or own, steps, horizon)
        return self._estimated(cell, measured, steps, horizon)

    def memory_gib(self, cell: Cell) -> PredictionInterval:
        """Return the peak memory of a GPU, GiB: measured, or else predicted."""
        measured = self.model(cell).by_speed_key.get(cell.speed_key)
        peak = measured.peak_memory_gib if measured else None
        return (
            PredictionInterval(peak, peak, peak)
            if peak
            else self.model(cell).memory_gib(workload(cell))
        )

    def most_informative(self, cells: Sequence[Cell]) -> Cell | None:
        """Return the cell whose measurement would narrow the estimates of `cells` most.

        A measurement counts only for the cells of its own cluster and trainer. Of more than `MOST`
        of these, those that are spread furthest are compared.
        """
        best: tuple[float, Cell] | None = None
        for key in dict.fromkeys(cell.measured_with for cell in cells):
            here = [cell for cell in cells if cell.measured_with == key]
            works = [workload(cell) for cell in here]
            compared = spread(works, MOST)
            here, works = [here[at] for at in compared], [works[at] for at in compared]
            gains = self.model(here[0]).gains(works, works)
            index = int(gains.argmax())
            if best is None or gains[index] > best[0]:
                best = float(gains[index]), here[index]
        return best[1] if best else None

    def _verified(
        self, cell: Cell, own: Sequence[Measurement], steps: int, horizon: str
    ) -> Estimate:
        """Return the median over seeds of the time of their runs, with the interval of another run.

        It contains the standard error of the mean step, the spread between runs, and the runs.
        """
        spread, walls, times, downs, ups = self._spread(own), 0, [], [], []
        for item in own:
            mean = item.mean_step_s
            steady = _around(mean, spread, item.mean_error_s).scaled(steps - 1)
            if item.uninterrupted and item.wall_s is not None and item.cell.run.steps == steps:
                # Evidence may have a wall-clock time without a start-up time.
                times.append(item.wall_s)
                downs.append(min(steady.middle - steady.low, item.wall_s))
                ups.append(steady.high - steady.middle)
                walls += 1
            else:
                started = self._measured_startup(cell, item)
                rest = self.model(cell).rest(cell, steps, mean)
                whole = add([started, steady, rest])
                times.append(whole.middle)
                downs.append(whole.middle - whole.low)
                ups.append(whole.high - whole.middle)
        middle = median(times)
        low, high = middle - median(downs), middle + median(ups)
        # Of more runs, some are outside the 80% interval.
        if len(own) <= 9:
            low, high = min(low, *times, middle), max(high, *times, middle)
        method = (
            "wall-clock time of the run" if walls == len(own) else "start-up + steps x mean step"
        )
        # The study's own runs record their start-up.
        if not walls and all(item.source and item.startup_s is None for item in own):
            method = PREDICTED_STARTUP
        by = ", ".join(dict.fromkeys(item.source for item in own if item.source))
        longest = max(item.cell.run.steps for item in own)
        return self._row(
            cell,
            steps,
            horizon,
            PredictionInterval(low, middle, high),
            startup_s=median(self._measured_startup(cell, item).middle for item in own),
            step=_measured_step(own, spread),
            basis=MEASURED_STEPS if all(item.steps_only for item in own) else VERIFIED,
            method=method,
            gpu_name=_gpu_name(cell, own),
            by=by,
            measured_steps=longest if steps > FAR * longest else None,
            doubt=_doubt(own),
        )

    def _spread(self, own: Sequence[Measurement]) -> float:
        """Return the standard deviation of another run's mean step time, relative, from `own`.

        The spread between runs is that of all repeated runs of the trainer on the cluster; to it
        comes the uncertainty of the mean of `own`.
        """
        key = own[0].cell.measured_with
        if key not in self._spreads:
            self._spreads[key] = speed_spread(
                [item.mean_step_s for item in items]
                for items in self._own.values()
                if items[0].cell.measured_with == key
            )
        return self._spreads[key] * math.sqrt(1 + 1 / len(own))

    def _measured_startup(self, cell: Cell, item: Measurement) -> PredictionInterval:
        """Return a run's start-up with its first step, s; predicted if it was not recorded."""
        if item.startup_s is not None:
            return PredictionInterval(item.startup_s, item.startup_s, item.startup_s)
        first = PredictionInterval(item.mean_step_s, item.mean_step_s, item.mean_step_s)
        return add([self.model(cell).startup(workload(cell)), first])

    def _estimated(
        self, cell: Cell, own: Sequence[Measurement], steps: int, horizon: str
    ) -> Estimate:
        model, work = self.model(cell), workload(cell)
        basis, reason = find_basis(work, model.extent, cell.variant)
        if not model.knows_speed:
            of = "" if cell.trainer == DEFAULT_TRAINER else f" of {cell.trainer}"
            missing = f"no measurement{of} on {cell.cluster} yet, and its peak_tflops is not known"
            return self._row(cell, steps, horizon, None, None, None, basis, missing)
        step, startup = model.step(work), model.startup(work)
        if own:
            step = _measured_step(own, self._spread(own))
            reason = "from the steps of its own runs so far"
        rest = model.rest(cell, steps, step.middle)
        whole = add([startup, step.scaled(steps), rest])
        return self._row(
            cell, steps, horizon, whole, startup.middle + step.middle, step, basis, reason
        )

    def _row(
        self,
        cell: Cell,
        steps: int,
        horizon: str,
        time: PredictionInterval | None,
        startup_s: float | None,
        step: PredictionInterval | None,
        basis: str,
        method: str,
        gpu_name: str | None = None,
        by: str = "",
        measured_steps: int | None = None,
        doubt: str = "",
    ) -> Estimate:
        cluster_config = cell.cluster_config
        hours = None if time is None else time.middle * cell.gpus / 3600
        memory = self.memory_gib(cell)
        return Estimate(
            cluster=cell.cluster,
            model=cell.model,
            params=cell.params,
            gpus=cell.gpus,
            tokens_per_step=cell.tokens_per_step,
            steps=steps,
            seconds=None if time is None else time.middle,
            seconds_low=None if time is None else time.low,
            seconds_high=None if time is None else time.high,
            gpu_hours=hours,
            basis=basis,
            method=method,
            variant=cell.variant,
            startup_s=startup_s,
            step_s=None if step is None else step.middle,
            gpu_name=gpu_name or cluster_config.gpu_name,
            step_s_low=None if step is None else step.low,
            step_s_high=None if step is None else step.high,
            horizon=horizon or f"{steps} steps",
            tokens=steps * cell.tokens_per_step,
            cost=_times(hours, cluster_config.price_per_gpu_hour),
            currency=cluster_config.currency,
            energy_kwh=_times(
                hours, None if cluster_config.power_w is None else cluster_config.power_w / 1e3
            ),
            memory_gib=memory.middle,
            memory_gib_high=memory.high,
            by=by,
            measured_steps=measured_steps,
            doubt=doubt,
            trainer=cell.trainer,
            plain_variant=cell.plain_variant,
        )


def _gpu_name(cell: Cell, own: Sequence[Measurement]) -> str | None:
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


def _measured_step(own: Sequence[Measurement], spread: float) -> PredictionInterval:
    """Return the median over runs of the mean step time, s, with the interval of another run."""
    steps = [_around(item.mean_step_s, spread, item.mean_error_s) for item in own]
    middle = median(step.middle for step in steps)
    low = min(step.middle for step in steps) if 1 < len(own) <= 9 else middle
    high = max(step.middle for step in steps) if 1 < len(own) <= 9 else middle
    down = median(step.middle - step.low for step in steps)
    up = median(step.high - step.middle for step in steps)
    return PredictionInterval(min(low, middle - down), middle, max(high, middle + up))


def _around(mean_s: float, spread: float, error_s: float) -> PredictionInterval:
    """Return the interval of a mean step time, from its standard error and the relative spread."""
    width = math.exp(Z80 * math.hypot(spread, error_s / mean_s))
    return PredictionInterval(mean_s / width, mean_s, mean_s * width)


def _doubt(own: Sequence[Measurement]) -> str:
    """Return why a cell's measurements may be unreliable, from the worst of its seeds."""
    spread = max((p90 - p10) / p50 for p10, p50, p90 in (item.step_s for item in own))
    loads = [
        (item.machine_load / item.machine_cores, item.machine_load, item.machine_cores)
        for item in own
        if item.machine_load is not None and item.machine_cores
    ]
    _, load, cores = max(loads, default=(None, None, None))
    return ", ".join(filter(None, [describe_load(load, cores), describe_spread(spread)]))


def _times(hours: float | None, rate: float | None) -> float | None:
    return None if hours is None or rate is None else hours * rate


def estimate_table(grid: Grid, measurements: Sequence[Measurement]) -> list[Estimate]:
    """Return a row for each horizon and configuration, in the grid's order.

    A configuration is (cluster, model, gpus, variant); its seeds are pooled.
    """
    estimator, settings = Estimator(measurements), grid.study.estimate
    horizons = dict.fromkeys([f"{settings.steps} steps", *settings.horizons])
    return [
        estimator.estimate(cell, horizon_steps(horizon, cell.params, cell.tokens_per_step), horizon)
        for horizon in horizons
        for cell in grid.configurations
    ]
