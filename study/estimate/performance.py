"""The performance model of a cluster: step time, start-up and memory of any cell, with intervals.

Step time and memory are regressions on the terms of `study.estimate.terms`; start-up is a separate
regression, on terms that do not grow with the model. Each trainer has its own performance model on
each cluster, fitted to all its measurements there.
"""

import math
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property

import numpy as np

from study.cluster_config import ClusterConfig
from study.estimate.basis import Extent, measured_extent
from study.estimate.intervals import PredictionInterval
from study.estimate.observed import Observed
from study.estimate.overhead import rest_terms
from study.estimate.priors import (
    MEMORY_PRIORS,
    REST_NOISE_SD,
    REST_PRIORS,
    STARTUP_NOISE_SD,
    STARTUP_PRIORS,
    STEP_PRIORS,
    step_priors,
)
from study.estimate.regression import Z80, Points, Regression
from study.estimate.terms import (
    COORDINATES,
    data_sheet,
    memory_terms,
    position,
    stack,
    step_terms,
)
from study.grid import Cell
from study.workload import Workload

NO_DATA_SHEET = 30.0
"""Factor by which the speed of a cluster without peak_tflops may differ from the nominal rates."""

UNSEEN = 1.35
"""Factor by which the speed of a cluster with a data sheet may differ from its rates, all terms
together. What slows small models down has terms of its own."""

EXCESS = 0.035
"""Standard deviation, in log time, of the loss beyond the model at each doubling past the largest
measured GPU count; there is never a gain. Published tables lose 0 to 6% there (MPT on H100)."""

CROSSING = 0.12
"""The same for several nodes, if none of their runs was measured: the slowdown by the network
differs between clusters by a fifth and more."""

MOST = 256
"""Configurations that a regression is fitted to; of more, those that lie furthest apart. Its cost
grows with the cube of this, and others lie within a length scale of these."""

REFITTED = 12
"""With more configurations than this, leaving some out does not choose hyperparameters again."""


class Performance:
    """The performance model of one cluster."""

    def __init__(
        self,
        cluster_config: ClusterConfig,
        observed: Sequence[Observed],
    ) -> None:
        """Fit to the measurements on the cluster; without any, predictions follow its data sheet.

        The regressions of all but the step time are fitted when they are first needed.
        """
        self.cluster_config, self.observed = cluster_config, list(observed)
        self._sheet = data_sheet(cluster_config)
        self.knows_speed = self._sheet.known or bool(observed)
        self._used = spread([item.work for item in observed], MOST)
        used = [observed[index] for index in self._used]
        self.steps = Regression(
            step_priors(cluster_config),
            self._step_points([item.work for item in used]),
            np.array([item.step_s for item in used]),
            UNSEEN if self._sheet.known else NO_DATA_SHEET,
        )

    def without(self, left_out: Collection[int]) -> "Performance":
        """Return the model without some measured configurations, by their positions.

        It predicts the step time as if they had not been measured; the other regressions are fitted
        to the rest when they are first needed.
        """
        kept = [item for index, item in enumerate(self.observed) if index not in left_out]
        if len(self.observed) <= REFITTED:
            return Performance(self.cluster_config, kept)
        other = copy(self)
        for name in CACHED:
            vars(other).pop(name, None)
        other.observed = kept
        positions = [at for at, index in enumerate(self._used) if index in left_out]
        other.steps = self.steps.without(positions) if positions else self.steps
        return other

    @cached_property
    def works(self) -> list[Workload]:
        """The measured configurations."""
        return [item.work for item in self.observed]

    @cached_property
    def extent(self) -> Extent:
        """What the measured configurations span."""
        return measured_extent(self.works)

    @cached_property
    def by_speed_key(self) -> dict[str, Observed]:
        """`RunConfig.speed_key` -> the measured configuration."""
        return {item.speed_key: item for item in self.observed}

    @cached_property
    def _measured(self) -> dict[Workload, float]:
        """Measured configuration -> step time, s."""
        return {item.work: item.step_s for item in self.observed}

    @cached_property
    def _largest(self) -> dict[tuple[int, int], int]:
        """Shape -> most GPUs measured with it."""
        largest: dict[tuple[int, int], int] = {}
        for work in self.works:
            largest[work.shape] = max(work.gpus, largest.get(work.shape, 0))
        return largest

    def step(self, work: Workload) -> PredictionInterval:
        """Return the step time, s.

        Beyond the largest measured GPU count (of this model size, if it was measured), the low end
        assumes scaling without loss from there, and the high end allows for losses that no smaller
        count shows.
        """
        mean, sd = self._predict(work)
        low, high = mean - Z80 * sd, mean + Z80 * sd
        most = max(self._largest.values(), default=work.gpus)
        largest = self._largest.get(work.shape, most)
        if work.gpus > largest:
            first_crossing = largest <= work.gpus_per_node < work.gpus
            excess = EXCESS * math.log2(work.gpus / largest)
            high = mean + Z80 * math.hypot(sd, excess, CROSSING if first_crossing else 0.0)
            # A tensor-parallel group may need more GPUs than were measured.
            if largest >= work.tensor_parallel:
                low = min(mean, self._without_loss(_on_gpus(work, largest)))
        return PredictionInterval(math.exp(low), math.exp(mean), math.exp(high))

    def _without_loss(self, work: Workload) -> float:
        """Return the logarithm of the shortest plausible step time of a smaller run, s."""
        if work in self._measured:
            return math.log(self._measured[work]) - Z80 * self.steps.hyper.noise_sd
        mean, sd = self._predict(work)
        return mean - Z80 * sd

    def startup(self, work: Workload) -> PredictionInterval:
        """Return the time from process start to the start of the first step, s."""
        return _interval(self._startup_model, _startup_points([work]))

    def rest(self, cell: Cell, steps: int, step_s: float) -> PredictionInterval:
        """Return the time of a run of `steps` steps outside start-up and steps, s."""
        return _interval(self._rest_model, _rest_points([rest_terms(cell, steps, step_s)]))

    def memory_gib(self, work: Workload) -> PredictionInterval:
        """Return the peak memory of a GPU, or of a process if the cluster has no GPUs, GiB."""
        return _interval(self._memory_model, _memory_points([work]))

    @cached_property
    def _startup_model(self) -> Regression:
        known = [
            item for item in self.observed if item.startup_s is not None or item.rests_with_startup
        ]
        found = _furthest(known)
        points = _startup_points([item.work for item in found])
        values = np.array([self._startup_of(item) for item in found], dtype=float)
        priors = list(STARTUP_PRIORS.values())
        return Regression(priors, points, values, usual_noise_sd=STARTUP_NOISE_SD)

    def _startup_of(self, item: Observed) -> float:
        """Return the start-up of a configuration, s: recorded, or what the rest of its whole runs
        leaves of their time."""
        if item.startup_s is not None:
            return item.startup_s
        points = _rest_points([terms for terms, _ in item.rests_with_startup])
        rests = np.exp(self._rest_model.predict(points)[0])
        return max(0.1, float(np.median([s for _, s in item.rests_with_startup] - rests)))

    @cached_property
    def _rest_model(self) -> Regression:
        found = [rest for item in _furthest(self.observed) for rest in item.rests][:MOST]
        points = _rest_points([terms for terms, _ in found])
        values = np.array([seconds for _, seconds in found], dtype=float)
        return Regression(list(REST_PRIORS.values()), points, values, usual_noise_sd=REST_NOISE_SD)

    @cached_property
    def _memory_model(self) -> Regression:
        found = _furthest([item for item in self.observed if item.peak_memory_gib])
        points = _memory_points([item.work for item in found])
        values = np.array([item.peak_memory_gib for item in found], dtype=float)
        return Regression(list(MEMORY_PRIORS.values()), points, values)

    def gains(self, works: Sequence[Workload]) -> np.ndarray:
        """Return by how much measuring each workload would narrow the step times of all of them.

        (works,): squared log time, summed.
        """
        return self.steps.narrowing(self._step_points(works))

    def _predict(self, work: Workload) -> tuple[float, float]:
        mean, sd = self.steps.predict(self._step_points([work]))
        return float(mean[0]), float(sd[0])

    def _step_points(self, works: Sequence[Workload]) -> Points:
        terms = stack([step_terms(work, self._sheet) for work in works], len(STEP_PRIORS))
        return Points(terms, *_where(works))


CACHED = [name for name, value in vars(Performance).items() if isinstance(value, cached_property)]
"""Attributes of a model that follow from its measurements."""


def _on_gpus(work: Workload, gpus: int) -> Workload:
    """Return the same work per GPU in a run on at most `gpus` GPUs, in whole replicas."""
    replicas = gpus // work.tensor_parallel
    return replace(work, gpus=replicas * work.tensor_parallel, shard=min(work.shard, replicas))


def _furthest(observed: Sequence[Observed]) -> list[Observed]:
    """Return at most `MOST` of measured configurations, those that lie furthest apart."""
    return [observed[at] for at in spread([item.work for item in observed], MOST)]


def spread(works: Sequence[Workload], most: int) -> list[int]:
    """Return the positions of at most `most` configurations, those that lie furthest apart.

    Each next one is the furthest from all before it, by `position` and `unseen`.
    """
    if len(works) <= most:
        return list(range(len(works)))
    positions, kinds = _where(works)
    kinds_of = np.array(kinds)
    chosen, apart = [0], np.full(len(works), np.inf)
    while len(chosen) < most:
        last = chosen[-1]
        to_last = ((positions - positions[last]) ** 2).sum(1) + (kinds_of != kinds_of[last])
        apart = np.minimum(apart, to_last)
        chosen.append(int(apart.argmax()))
    return sorted(set(chosen))


def _where(works: Sequence[Workload]) -> tuple[np.ndarray, list[str]]:
    positions = np.array([position(work) for work in works], dtype=float)
    return positions.reshape(len(works), len(COORDINATES)), [work.unseen for work in works]


def _startup_points(works: Sequence[Workload]) -> Points:
    terms = np.array(
        [
            [1.0, math.log2(work.gpus), float(work.gpus > work.gpus_per_node), float(work.compiled)]
            for work in works
        ]
    ).reshape(len(works), len(STARTUP_PRIORS))
    # Start-up does not depend on anything else, such as the model's size.
    positions = np.array([[0.5 * math.log(work.gpus), float(work.compiled)] for work in works])
    return Points(terms, positions.reshape(len(works), 2), [""] * len(works))


def _rest_points(rows: Sequence[dict[str, float]]) -> Points:
    nowhere = np.zeros((len(rows), 1))
    return Points(stack(list(rows), len(REST_PRIORS)), nowhere, [""] * len(rows))


def _memory_points(works: Sequence[Workload]) -> Points:
    terms = stack([memory_terms(work) for work in works], len(MEMORY_PRIORS))
    return Points(terms, *_where(works))


def _interval(regression: Regression, points: Points) -> PredictionInterval:
    mean, sd = (float(values[0]) for values in regression.predict(points))
    return PredictionInterval(math.exp(mean - Z80 * sd), math.exp(mean), math.exp(mean + Z80 * sd))
