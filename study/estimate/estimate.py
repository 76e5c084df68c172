"""How long a run takes: from its own measurements, or else from the performance model.

Verified: from the start-up and step times of completed runs of the configuration, by the study or
by a source in its `evidence`. Estimated: by the trainer's performance model on the cluster, which
interpolates between measurements or extrapolates from them; or from measured steps, if they are
known from a log alone, which has no start-up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from study.estimate.basis import MEASURED_STEPS, VERIFIED, find_basis
from study.estimate.intervals import PredictionInterval, add, around
from study.estimate.observed import observe
from study.estimate.own_runs import (
    alike,
    another_run,
    find_doubt,
    find_gpu_name,
    find_source,
    is_whole,
    measured_step,
    spread_of_another,
)
from study.estimate.performance import MOST, Performance, spread
from study.estimate.spreads import Spreads, find_spreads
from study.grid import Cell, Grid
from study.horizon import horizon_steps
from study.measure.measurement import Measurement
from study.sequences import group_by
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
    """Who measured, if not the study itself, or in which other cell of it; otherwise empty."""
    measured_steps: int | None = None
    """Steps in steady state that were measured, if `steps` is far more: the speed is verified, the
    length extrapolated."""
    doubt: str = ""
    """Why the measurement behind `seconds` may be unreliable; otherwise empty."""
    trainer: str = DEFAULT_TRAINER
    plain_variant: str = ""
    """The variant's name without the trainer's."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What is known of the time of a run; the columns of `Estimate` that depend on it."""

    basis: str
    method: str
    time: PredictionInterval | None = None
    """Of the whole run, s."""
    startup_s: float | None = None
    step: PredictionInterval | None = None
    gpu_name: str | None = None
    by: str = ""
    measured_steps: int | None = None
    doubt: str = ""


class Estimator:
    """Estimates for any cell and number of steps, from a study's measurements."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        """Keep the measurements; the model of each trainer on each cluster is fitted when it is
        first needed."""
        self._measured = group_by(measurements, lambda item: item.cell.measured_with)
        self._own = group_by(measurements, lambda item: (item.cell.cluster, item.cell.speed_key))
        self._models: dict[tuple[str, str], Performance] = {}
        self._known_spreads: dict[tuple[str, str], Spreads] = {}

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
        if own:
            found = self._verified(cell, alike(cell, ours or own, steps), steps)
        else:
            found = self._estimated(cell, measured, steps)
        return self._row(cell, steps, horizon, found)

    def memory_gib(self, cell: Cell) -> PredictionInterval:
        """Return the peak memory of a GPU, GiB: measured, or else predicted."""
        measured = self.model(cell).by_speed_key.get(cell.speed_key)
        peak = measured.peak_memory_gib if measured else None
        return around(peak) if peak else self.model(cell).memory_gib(workload(cell))

    def most_informative(self, cells: Sequence[Cell]) -> Cell | None:
        """Return the cell whose measurement would narrow the estimates of `cells` most.

        A measurement counts only for the cells of its own cluster and trainer. Of more than `MOST`
        of these, those that are spread furthest are compared.
        """
        best: tuple[float, Cell] | None = None
        for here in group_by(cells, lambda cell: cell.measured_with).values():
            works = [workload(cell) for cell in here]
            compared = spread(works, MOST)
            here, works = [here[at] for at in compared], [works[at] for at in compared]
            gains = self.model(here[0]).gains(works)
            index = int(gains.argmax())
            if best is None or gains[index] > best[0]:
                best = float(gains[index]), here[index]
        return best[1] if best else None

    def _verified(self, cell: Cell, own: Sequence[Measurement], steps: int) -> Timing:
        """Return the median over seeds of the time of their runs, with the interval of another run.

        Runs of that length count alone, if there are any: their time was measured as a whole. The
        interval contains the standard error of the mean step, the spread between runs, and the
        runs.
        """
        spreads = self._spreads(cell)
        method = "start-up + steps x mean step"
        if whole := [item for item in own if is_whole(item, cell, steps)]:
            own, method = whole, "wall-clock time of the run"
        # The study's own runs record their start-up.
        elif all(item.source and item.startup_s is None for item in own):
            method = PREDICTED_STARTUP
        known = [item.steady_steps for item in own if item.steady_steps is not None]
        far = known and steps > FAR * max(known)
        return Timing(
            basis=MEASURED_STEPS if all(item.steps_only for item in own) else VERIFIED,
            method=method,
            time=another_run([self._time_of_run(cell, item, steps, len(own)) for item in own]),
            startup_s=median(self._startup(cell, item, len(own)).middle for item in own),
            step=measured_step(own, spreads),
            gpu_name=find_gpu_name(cell, own),
            by=find_source(cell, own),
            measured_steps=max(known) if far else None,
            doubt=find_doubt(own),
        )

    def _time_of_run(
        self, cell: Cell, item: Measurement, steps: int, runs: int
    ) -> PredictionInterval:
        """Return the time of a run like a measured one, one of so many runs, s."""
        spreads, mean = self._spreads(cell), item.mean_step_s
        spread = spread_of_another(spreads.step, runs)
        steady = around(mean, spread, spreads.error(item)).scaled(steps - 1)
        if is_whole(item, cell, steps):
            # Evidence may have a wall-clock time without a start-up time, and contradict itself.
            assert item.wall_s is not None
            assert item.outside_s is not None
            outside_s = max(0.0, item.outside_s)
            whole = add([around(outside_s, spread_of_another(spreads.outside, runs)), steady])
            low = max(0.0, item.wall_s - (whole.middle - whole.low))
            return PredictionInterval(low, item.wall_s, item.wall_s + whole.high - whole.middle)
        started = self._startup(cell, item, runs)
        return add([started, steady, self.model(cell).rest(cell, steps, mean)])

    def _spreads(self, cell: Cell) -> Spreads:
        """Return how much runs of a cell's trainer on its cluster differ."""
        key = cell.measured_with
        if key not in self._known_spreads:
            self._known_spreads[key] = find_spreads(self._measured.get(key, []))
        return self._known_spreads[key]

    def _startup(self, cell: Cell, item: Measurement, runs: int) -> PredictionInterval:
        """Return the start-up of a run like a measured one, one of so many runs, with its first
        step, s; predicted if it was not recorded."""
        if item.startup_s is not None:
            spread = spread_of_another(self._spreads(cell).startup, runs)
            return around(item.startup_s, spread)
        return add([self.model(cell).startup(workload(cell)), around(item.mean_step_s)])

    def _estimated(self, cell: Cell, own: Sequence[Measurement], steps: int) -> Timing:
        """Return the time by the performance model, with the steps of unfinished runs in `own`."""
        model, work = self.model(cell), workload(cell)
        basis, reason = find_basis(work, model.extent, cell.variant)
        if not model.knows_speed:
            of = "" if cell.trainer == DEFAULT_TRAINER else f" of {cell.trainer}"
            missing = f"no measurement{of} on {cell.cluster} yet, and its peak_tflops is not known"
            return Timing(basis=basis, method=missing)
        step, startup = model.step(work), model.startup(work)
        if own:
            step = measured_step(own, self._spreads(cell))
            reason = "from the steps of its own runs so far"
        rest = model.rest(cell, steps, step.middle)
        return Timing(
            basis=basis,
            method=reason,
            time=add([startup, step.scaled(steps), rest]),
            startup_s=startup.middle + step.middle,
            step=step,
        )

    def _row(self, cell: Cell, steps: int, horizon: str, found: Timing) -> Estimate:
        time, step = found.time, found.step
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
            basis=found.basis,
            method=found.method,
            variant=cell.variant,
            startup_s=found.startup_s,
            step_s=None if step is None else step.middle,
            gpu_name=found.gpu_name or cluster_config.gpu_name,
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
            by=found.by,
            measured_steps=found.measured_steps,
            doubt=found.doubt,
            trainer=cell.trainer,
            plain_variant=cell.plain_variant,
        )


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
