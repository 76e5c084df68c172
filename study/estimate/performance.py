"""The performance model of a cluster: step time, start-up and memory of any cell, with intervals.

Step time and memory are regressions on the terms of `study.workload`; start-up is one of its own,
on nothing that grows with the model. Each cluster has a model of its own, fitted to all that was
measured there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from study.config import ClusterConfig
from study.estimate.overhead import rest_terms
from study.estimate.regression import Z80, Hyper, Points, Prior, Regression
from study.grid import Cell
from study.measure.measurement import Measurement
from study.workload import (
    COORDINATES,
    Workload,
    data_sheet,
    memory_terms,
    position,
    stack,
    step_terms,
    workload,
)

STEP_PRIORS = {
    # How much longer a part takes than at the data sheet's rate. Products of matrices reach 50 to
    # 80% of peak in large shapes; fused attention about a third.
    "matmul": Prior(1.4, 1.35),
    "attention": Prior(3.0, 1.65),
    "activations": Prior(1.5, 2.0),
    "logits": Prior(1.5, 2.0),
    # Of a millisecond a layer, eager; 0.4 compiled.
    "launch": Prior(0.5, 2.7),
    "optimizer": Prior(1.0, 2.0),
    # What the backward pass does not hide.
    "link": Prior(0.3, 2.7),
    "network": Prior(0.3, 2.7),
    "latency": Prior(0.3, 2.7),
    "stragglers": Prior(0.5, 2.7),
    "constant": Prior(1.0, 2.7),
}
"""Believed before anything is measured, for the terms of `step_terms`, in their order."""

STARTUP_PRIORS = {
    "process": Prior(20.0, 2.0),
    "group": Prior(1.0, 3.0),
    "nodes": Prior(5.0, 3.0),
    "compile": Prior(20.0, 3.0),
}
"""Seconds: a process with imports and data, each doubling of the GPUs, several nodes, compile."""

MEMORY_PRIORS = {
    "states": Prior(1.0, 1.15),
    "activations": Prior(1.0, 1.5),
    "logits": Prior(1.0, 1.5),
    "constant": Prior(1.0, 2.0),
}
"""For the terms of `memory_terms`, in their order."""

REST_PRIORS = {
    "saves": Prior(1.0, 3.0),
    "evaluations": Prior(1.0, 2.0),
    "slow steps": Prior(1.0, 3.0),
    "end": Prior(2.0, 2.0),
}
"""For the terms of `study.estimate.overhead.rest_terms`, in their order."""

NO_DATA_SHEET = 30.0
"""How far, as a factor, a cluster without peak_tflops may be from the nominal rates."""

UNSEEN = 3.0
"""How far a cluster with a data sheet may be from what its rates say, all terms together: steps of
small models wait for their host, two to five times in the tables that groups keep."""

EXCESS = 0.035
"""Standard deviation of what each doubling beyond the largest measured GPU count may cost beyond
the model, in log time; it is never gained. Published tables lose 0 to 6% there (MPT on H100)."""

CROSSING = 0.1
"""The same of a first run on several nodes, where none was measured: by how much a network slows
training down differs between clusters by a fifth and more."""


@dataclass(frozen=True)
class Interval:
    """A median, with the ends of its central 80%."""

    low: float
    middle: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """Return it times a factor."""
        return Interval(self.low * factor, self.middle * factor, self.high * factor)


def add(parts: Sequence[Interval]) -> Interval:
    """Return the sum of independent quantities: their deviations add up in squares."""
    middle = sum(part.middle for part in parts)
    down = math.hypot(*(part.middle - part.low for part in parts))
    up = math.hypot(*(part.high - part.middle for part in parts))
    return Interval(max(0.0, middle - down), middle, middle + up)


@dataclass(frozen=True)
class Observed:
    """A configuration with what its runs measured, their medians."""

    work: Workload
    step_s: float
    startup_s: float | None
    """Without its first step."""
    peak_memory_gib: float | None
    rests: tuple[tuple[dict[str, float], float], ...] = ()
    """What whole runs did beside start-up and steps, and the seconds it took."""
    speed_key: str = ""
    """`RunConfig.speed_key` of its runs."""


def observe(measurements: Sequence[Measurement]) -> list[Observed]:
    """Return each measured configuration once: seeds are pooled."""
    pooled: dict[str, list[Measurement]] = {}
    for item in measurements:
        pooled.setdefault(item.cell.speed_key, []).append(item)

    return [
        Observed(
            workload(items[0].cell, items[0].model_dtype),
            median(item.step_s[1] for item in items),
            _middle([_startup_before_step(item) for item in items]),
            _middle([item.peak_memory_gib for item in items]),
            tuple(_rests(items)),
            items[0].cell.speed_key,
        )
        for items in pooled.values()
    ]


def _middle(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _startup_before_step(item: Measurement) -> float | None:
    return None if item.startup_s is None else max(0.1, item.startup_s - item.step_s[1])


class Performance:
    """The model of one cluster."""

    def __init__(
        self,
        cluster_config: ClusterConfig,
        observed: Sequence[Observed],
        hyper: Hyper | None = None,
    ) -> None:
        """Fit to what was measured on the cluster; with nothing, its data sheet speaks.

        `hyper` holds the sizes of the step time's Gaussian process; None chooses them.
        """
        self.cluster_config, self.observed = cluster_config, list(observed)
        self._sheet = data_sheet(cluster_config)
        self.knows_speed = self._sheet.known or bool(observed)
        self.steps = Regression(
            list(STEP_PRIORS.values()),
            self._step_points([item.work for item in observed]),
            np.array([item.step_s for item in observed]),
            UNSEEN if self._sheet.known else NO_DATA_SHEET,
            hyper,
        )

    @property
    def works(self) -> list[Workload]:
        """The measured configurations."""
        return [item.work for item in self.observed]

    def step(self, work: Workload) -> Interval:
        """Return the time of a step, s.

        Beyond the largest GPU count measured (of this model size, where it was measured), the low
        end is that of scaling without loss from there, and the high end leaves room for losses that
        no smaller count shows.
        """
        mean, sd = self._predict(work)
        low, high = mean - Z80 * sd, mean + Z80 * sd
        alike = [other for other in self.works if other.shape == work.shape] or self.works
        largest = max((other.gpus for other in alike), default=work.gpus)
        if work.gpus > largest:
            first_crossing = largest <= work.gpus_per_node < work.gpus
            excess = EXCESS * math.log2(work.gpus / largest)
            high = mean + Z80 * math.hypot(sd, excess, CROSSING if first_crossing else 0.0)
            low = min(mean, self._without_loss(_on_gpus(work, largest)))
        return Interval(math.exp(low), math.exp(mean), math.exp(high))

    def _without_loss(self, work: Workload) -> float:
        """Return the logarithm of the least that the step of a smaller run may take, s."""
        for item in self.observed:
            if item.work == work:
                return math.log(item.step_s)
        mean, sd = self._predict(work)
        return mean - Z80 * sd

    def startup(self, work: Workload) -> Interval:
        """Return the time from process start to the beginning of the first step, s."""
        found = [item for item in self.observed if item.startup_s is not None]
        points = _startup_points([item.work for item in found])
        values = np.array([item.startup_s for item in found], dtype=float)
        regression = Regression(list(STARTUP_PRIORS.values()), points, values)
        return _interval(regression, _startup_points([work]))

    def rest(self, cell: Cell, steps: int, step_s: float) -> Interval:
        """Return the time of a run of `steps` steps beside start-up and steps, s."""
        found = [rest for item in self.observed for rest in item.rests]
        points = _rest_points([terms for terms, _ in found])
        values = np.array([seconds for _, seconds in found], dtype=float)
        regression = Regression(list(REST_PRIORS.values()), points, values)
        return _interval(regression, _rest_points([rest_terms(cell, steps, step_s)]))

    def memory_gib(self, work: Workload) -> Interval:
        """Return the peak memory of a GPU, GiB; of a process where the cluster has no GPUs."""
        found = [item for item in self.observed if item.peak_memory_gib]
        points = _memory_points([item.work for item in found])
        values = np.array([item.peak_memory_gib for item in found], dtype=float)
        regression = Regression(list(MEMORY_PRIORS.values()), points, values)
        return _interval(regression, _memory_points([work]))

    def gains(self, candidates: Sequence[Workload], targets: Sequence[Workload]) -> np.ndarray:
        """Return how much measuring each candidate would narrow the targets' step times.

        (candidates,), in squared log time, summed over the targets.
        """
        points = [self._step_points(works) for works in (candidates, targets)]
        return self.steps.narrowing(*points)

    def _predict(self, work: Workload) -> tuple[float, float]:
        mean, sd = self.steps.predict(self._step_points([work]))
        return float(mean[0]), float(sd[0])

    def _step_points(self, works: Sequence[Workload]) -> Points:
        terms = stack([step_terms(work, self._sheet) for work in works], len(STEP_PRIORS))
        return Points(terms, *_where(works))


def _on_gpus(work: Workload, gpus: int) -> Workload:
    """Return the same work of each GPU in a run on fewer."""
    return replace(work, gpus=gpus, shard=min(work.shard, gpus))


def _where(works: Sequence[Workload]) -> tuple[np.ndarray, list[str]]:
    positions = np.array([position(work) for work in works], dtype=float)
    return positions.reshape(len(works), COORDINATES), [work.unseen for work in works]


def _startup_points(works: Sequence[Workload]) -> Points:
    terms = np.array(
        [
            [1.0, math.log2(work.gpus), float(work.gpus > work.gpus_per_node), float(work.compiled)]
            for work in works
        ]
    ).reshape(len(works), len(STARTUP_PRIORS))
    # On anything else, such as the model's size, start-up does not depend.
    positions = np.array([[0.5 * math.log(work.gpus), float(work.compiled)] for work in works])
    return Points(terms, positions.reshape(len(works), 2), [""] * len(works))


def _rests(measurements: Sequence[Measurement]) -> list[tuple[dict[str, float], float]]:
    """Return what whole runs took beside start-up and steps: the terms of it, and seconds."""
    found = []
    for item in measurements:
        if item.uninterrupted and item.wall_s is not None and item.startup_s is not None:
            step_s, steps = item.step_s[1], item.cell.run.steps
            seconds = item.wall_s - item.startup_s - (steps - 1) * step_s
            # Steps that vary leave more or less than nothing where nothing else was done.
            found.append((rest_terms(item.cell, steps, step_s), max(0.1, seconds)))
    return found


def _rest_points(rows: Sequence[dict[str, float]]) -> Points:
    nowhere = np.zeros((len(rows), 1))
    return Points(stack(list(rows), len(REST_PRIORS)), nowhere, [""] * len(rows))


def _memory_points(works: Sequence[Workload]) -> Points:
    terms = stack([memory_terms(work) for work in works], len(MEMORY_PRIORS))
    return Points(terms, *_where(works))


def _interval(regression: Regression, points: Points) -> Interval:
    mean, sd = (float(values[0]) for values in regression.predict(points))
    return Interval(math.exp(mean - Z80 * sd), math.exp(mean), math.exp(mean + Z80 * sd))
