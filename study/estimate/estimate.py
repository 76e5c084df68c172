"""How long a run takes: read off where it was measured, from the performance model where not.

Verified: start-up and step time of the configuration's own completed runs, by the study or by
somebody it names. Estimated: the performance model of the cluster, by interpolation between what
was measured, or by extrapolation from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from study.estimate.performance import Interval, Performance, add, observe
from study.grid import Cell, Grid
from study.horizon import horizon_steps
from study.measure.flags import describe_load, describe_spread
from study.measure.measurement import Measurement
from study.workload import Workload, workload

VERIFIED = "Verified"
INTERPOLATED = "Estimated by interpolation"
EXTRAPOLATED = "Estimated by extrapolation"

DIRECTIONS = {
    "params": "parameters",
    "gpus": "GPUs",
    "seq_len": "tokens a sequence",
    "tokens": "tokens a pass",
}
"""Sizes whose measured range an interpolation stays in: attribute of a workload, and its name."""

SETTINGS = {
    "recompute": "activation checkpointing",
    "compiled": "compile",
    "tensor_parallel": "tensor parallelism",
    "value_bytes": "arithmetic",
}
"""Settings that were measured, or were not."""


FAR = 10
"""Factor on the measured steps from which a verified speed says little of a whole run: what comes
seldom (throttling, a slow file system, a neighbour) may not have come yet."""


@dataclass(frozen=True)
class Estimate:
    """A row of the time table. Times are empty where nothing is known of the cluster."""

    cluster: str
    model: str
    params: int
    gpus: int
    tokens_per_step: int
    steps: int
    seconds: float | None
    """Time of the run with start-up, saves and evaluations."""
    seconds_low: float | None
    """Lower end of the 80% interval."""
    seconds_high: float | None
    """Upper end of the 80% interval."""
    gpu_hours: float | None
    """seconds * gpus / 3600."""
    basis: str
    """Verified, Estimated by interpolation, or Estimated by extrapolation."""
    method: str
    """How `seconds` came about, and what makes it unsure."""
    variant: str
    startup_s: float | None
    """Start-up that `seconds` holds, its first step included."""
    step_s: float | None
    """Time of a step."""
    gpu_name: str
    step_s_low: float | None
    """Lower end of its 80% interval."""
    step_s_high: float | None
    """Upper end of its 80% interval."""
    horizon: str
    """What the steps were asked for as, such as '500 steps' or 'chinchilla'."""
    tokens: int
    """Tokens of the run."""
    cost: float | None
    """gpu_hours * the cluster's price, in `currency`."""
    currency: str
    energy_kwh: float | None
    """gpu_hours * the cluster's measured power of a GPU."""
    memory_gib: float | None
    """Peak memory of a GPU, predicted where it was not measured, GiB."""
    memory_gib_high: float | None
    """Upper end of its 80% interval, GiB."""
    by: str = ""
    """Who measured, if others than the study did; empty otherwise."""
    measured_steps: int | None = None
    """Steps that were measured, if `steps` is far more: the speed is verified, not the length."""
    doubt: str = ""
    """What speaks against the measurement that `seconds` rests on; empty if nothing does."""


class Estimator:
    """All that is known of a study's clusters; it answers for any cell and number of steps."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        """Keep the measurements; each cluster's model is fitted when it is first asked for."""
        self.measurements = list(measurements)
        self._models: dict[str, Performance] = {}

    def model(self, cell: Cell) -> Performance:
        """Return the performance model of a cell's cluster."""
        if cell.cluster not in self._models:
            here = [item for item in self.measurements if item.cell.cluster == cell.cluster]
            self._models[cell.cluster] = Performance(cell.cluster_config, observe(here))
        return self._models[cell.cluster]

    def estimate(self, cell: Cell, steps: int, horizon: str = "") -> Estimate:
        """Return the time that `steps` steps of a cell take."""
        measured = self._own(cell)
        own = [item for item in measured if item.completed]
        # What a study measured itself comes before what others say.
        ours = [item for item in own if not item.source]
        if ours or own:
            return self._verified(cell, ours or own, steps, horizon)
        return self._estimated(cell, measured, steps, horizon)

    def _own(self, cell: Cell) -> list[Measurement]:
        """Return what was measured of a cell's own configuration."""
        return [
            item
            for item in self.measurements
            if item.cell.cluster == cell.cluster and item.cell.speed_key == cell.speed_key
        ]

    def memory_gib(self, cell: Cell) -> Interval:
        """Return the peak memory of a GPU, GiB: measured where it was."""
        measured = [
            item.peak_memory_gib
            for item in self.model(cell).observed
            if item.speed_key == cell.speed_key and item.peak_memory_gib
        ]
        if measured:
            return Interval(measured[0], measured[0], measured[0])
        return self.model(cell).memory_gib(workload(cell))

    def most_telling(self, cells: Sequence[Cell]) -> Cell | None:
        """Return the cell whose measurement would narrow the estimates of all that are open most.

        `cells` are the open ones. Clusters are compared by what their own cells would gain.
        """
        best: tuple[float, Cell] | None = None
        for cluster in dict.fromkeys(cell.cluster for cell in cells):
            here = [cell for cell in cells if cell.cluster == cluster]
            works = [workload(cell) for cell in here]
            gains = self.model(here[0]).gains(works, works)
            index = int(gains.argmax())
            if best is None or gains[index] > best[0]:
                best = float(gains[index]), here[index]
        return best[1] if best else None

    def _verified(
        self, cell: Cell, own: Sequence[Measurement], steps: int, horizon: str
    ) -> Estimate:
        """Return the measured time: the median over seeds, from the lowest to the highest interval.

        A seed's interval is what its run takes if every step takes the 10th or 90th percentile.
        """
        times, walls = [], 0
        for item in own:
            p10, p50, p90 = item.step_s
            started = self._measured_startup(cell, item)
            if item.uninterrupted and item.wall_s is not None and item.cell.run.steps == steps:
                # What others timed from outside says nothing of their start-up.
                times.append([item.wall_s, item.wall_s, item.wall_s])
                walls += 1
            else:
                rest = self.model(cell).rest(cell, steps, p50)
                whole = add([started, Interval(p50, p50, p50).scaled(steps - 1), rest])
                times.append([whole.low, whole.middle, whole.high])
            times[-1][0] -= (steps - 1) * (p50 - p10)
            times[-1][2] += (steps - 1) * (p90 - p50)
        low, middle, high = zip(*times, strict=True)
        method = (
            "wall-clock time of the run" if walls == len(own) else "start-up + steps x step p50"
        )
        by = ", ".join(dict.fromkeys(item.source for item in own if item.source))
        longest = max(item.cell.run.steps for item in own)
        return self._row(
            cell,
            steps,
            horizon,
            Interval(min(low), median(middle), max(high)),
            startup_s=median(self._measured_startup(cell, item).middle for item in own),
            step=_spread(own),
            basis=VERIFIED,
            method=method,
            gpu_name=_gpu_name(cell, own),
            by=by,
            measured_steps=longest if steps > FAR * longest else None,
            doubt=_doubt(own),
        )

    def _measured_startup(self, cell: Cell, item: Measurement) -> Interval:
        """Return a run's start-up with its first step, s; the model's where nobody noted it."""
        if item.startup_s is not None:
            return Interval(item.startup_s, item.startup_s, item.startup_s)
        first = Interval(item.step_s[1], item.step_s[1], item.step_s[1])
        return add([self.model(cell).startup(workload(cell)), first])

    def _estimated(
        self, cell: Cell, own: Sequence[Measurement], steps: int, horizon: str
    ) -> Estimate:
        model, work = self.model(cell), workload(cell)
        basis, reason = find_basis(work, model.works, cell.variant)
        if not model.knows_speed:
            missing = f"no measurement on {cell.cluster} yet, and its peak_tflops is not known"
            return self._row(cell, steps, horizon, None, None, None, basis, missing)
        step, startup = model.step(work), model.startup(work)
        if own:
            step, reason = _spread(own), "from the steps of its own runs so far"
        whole = add([startup, step.scaled(steps), model.rest(cell, steps, step.middle)])
        return self._row(
            cell, steps, horizon, whole, startup.middle + step.middle, step, basis, reason
        )

    def _row(
        self,
        cell: Cell,
        steps: int,
        horizon: str,
        time: Interval | None,
        startup_s: float | None,
        step: Interval | None,
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
        )


def _gpu_name(cell: Cell, own: Sequence[Measurement]) -> str | None:
    """Return what the measured runs say they ran on; None if they do not."""
    names = dict.fromkeys(item.gpu_name for item in own if item.gpu_name)
    if not names:
        return None
    found = ", ".join(name.removeprefix("NVIDIA ") for name in names)
    return (
        found
        if cell.cluster_config.device == "cuda"
        else f"{cell.cluster_config.gpu_name} ({found})"
    )


def _spread(own: Sequence[Measurement]) -> Interval:
    """Return the measured time of a step, s: the median over seeds, from lowest to highest."""
    low, middle, high = zip(*(item.step_s for item in own), strict=True)
    return Interval(min(low), median(middle), max(high))


def _doubt(own: Sequence[Measurement]) -> str:
    """Return what speaks against a cell's measurements: of its seeds, the worst."""
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

    A configuration is (cluster, model, gpus, variant): its seeds are pooled.
    """
    cells: dict[tuple[str, str, int, str], Cell] = {}
    for cell in grid:
        cells.setdefault((cell.cluster, cell.model, cell.gpus, cell.variant), cell)
    estimator, settings = Estimator(measurements), grid.study.estimate
    horizons = dict.fromkeys([f"{settings.steps} steps", *settings.horizons])
    return [
        estimator.estimate(cell, horizon_steps(horizon, cell.params, cell.tokens_per_step), horizon)
        for horizon in horizons
        for cell in cells.values()
    ]


def find_basis(
    work: Workload, measured: Sequence[Workload], variant: str = "base"
) -> tuple[str, str]:
    """Return what an estimate of a configuration rests on, and the words for it.

    `variant` names its settings.
    """
    if not measured:
        return EXTRAPOLATED, "from the data sheet alone, nothing was measured there"
    beyond = []
    for attribute, name in DIRECTIONS.items():
        value = getattr(work, attribute)
        known = [getattr(other, attribute) for other in measured]
        if not 0.99 * min(known) <= value <= 1.01 * max(known):
            ends = sorted({min(known), max(known)})
            beyond.append(f"{value:,} {name}, measured {' to '.join(f'{end:,}' for end in ends)}")
    for attribute, name in SETTINGS.items():
        if all(getattr(work, attribute) != getattr(other, attribute) for other in measured):
            beyond.append(f"{name} {getattr(work, attribute)} was not measured")
    if all(work.unseen != other.unseen for other in measured):
        beyond.append(f"other settings of variant {variant} were not measured")
    count = f"{len(measured)} measured configuration{'s' if len(measured) > 1 else ''}"
    if beyond:
        return EXTRAPOLATED, f"from {count}; {'; '.join(beyond)}"
    return INTERPOLATED, f"from {count}"
