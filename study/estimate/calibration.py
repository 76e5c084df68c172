"""Cross-validation of the estimates: each measured cell is predicted from others.

Three checks leave out one cell, all cells of one model size, or the cells of one model size on its
largest GPU count, and predict them from the rest.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median

from study.cluster_config import ClusterConfig
from study.estimate.observed import Observed, observe
from study.estimate.performance import Performance
from study.estimate.scored import ScoredPrediction
from study.formats import format_number
from study.measure.measurement import Measurement
from study.sequences import group_by
from study.trainers import DEFAULT_TRAINER

MOST_PARTS = 100
"""Sets of cells that a check leaves out, evenly spread over the table's rows if there are more."""

MOST_SHOWN = 40
"""Predictions of a cluster's measured cells for a figure, evenly spread over the table's rows."""


@dataclass(frozen=True)
class Check:
    """A row of estimate_check.csv. Errors are of the step time; empty if nothing was left out."""

    cluster: str
    left_out: str
    """One cell, one model size, or largest GPU count."""
    cells: int
    """Predicted configurations."""
    median_error: float | None
    """Median of |predicted / measured - 1|."""
    largest_error: float | None
    """Largest |predicted / measured - 1|."""
    coverage: float | None
    """Share of the measured step times inside the 80% prediction interval."""
    below: float | None
    """Share that were shorter than the interval."""
    above: float | None
    """Share that were longer than the interval."""
    trainer: str = DEFAULT_TRAINER


def leave_one_out(measurements: Sequence[Measurement]) -> list[ScoredPrediction]:
    """Return the prediction of each measured configuration from the others of its trainer
    on its cluster.

    There is none for the only one there. Of more than `MOST_SHOWN`, evenly spread ones are
    predicted.
    """
    found = []
    for here in group_by(measurements, lambda item: item.cell.measured_with).values():
        first = {item.cell.speed_key: item.cell for item in reversed(here)}
        observed = observe(here)
        whole = Performance(here[0].cell.cluster_config, observed)
        spacing = math.ceil(len(observed) / MOST_SHOWN)
        for index, item in list(enumerate(observed))[::spacing] if len(observed) > 1 else []:
            predicted = whole.without({index}).step(item.work)
            interval = predicted.low, predicted.middle, predicted.high
            name = first[item.speed_key].name
            found.append(ScoredPrediction.of(name, item.step_s, interval))
    return found


def estimate_checks(measurements: Sequence[Measurement]) -> list[Check]:
    """Return the checks of each trainer on each cluster, in the order of the measurements."""
    rows: list[Check] = []
    alike = group_by(measurements, lambda item: item.cell.measured_with)
    for (cluster, trainer), here in alike.items():
        checks = check_cluster(cluster, here[0].cell.cluster_config, observe(here))
        rows += [replace(check, trainer=trainer) for check in checks]
    return rows


def check_cluster(
    cluster: str, cluster_config: ClusterConfig, observed: Sequence[Observed]
) -> Iterator[Check]:
    """Yield the three checks of a cluster's measured configurations."""
    whole = Performance(cluster_config, observed)
    for name, parts in parts_left_out(observed).items():
        ratios, inside, below = [], 0, 0
        for part in parts[:: math.ceil(len(parts) / MOST_PARTS) or 1]:
            model = whole.without(part)
            for index in part:
                item = observed[index]
                predicted = model.step(item.work)
                ratios.append(abs(predicted.middle / item.step_s - 1))
                inside += predicted.low <= item.step_s <= predicted.high
                below += item.step_s < predicted.low
        count = len(ratios)
        yield Check(
            cluster,
            name,
            count,
            median(ratios) if ratios else None,
            max(ratios, default=None),
            inside / count if ratios else None,
            below / count if ratios else None,
            (count - inside - below) / count if ratios else None,
        )


def parts_left_out(observed: Sequence[Observed]) -> dict[str, list[set[int]]]:
    """Return check -> the sets of positions that are left out together.

    Sets that would leave nothing to predict from are omitted.
    """
    works = [item.work for item in observed]
    everything = range(len(works))
    sizes: dict[tuple[int, int], set[int]] = {}
    for index, work in enumerate(works):
        sizes.setdefault(work.shape, set()).add(index)
    largest = []
    for part in sizes.values():
        counts = {works[index].gpus for index in part}
        if len(counts) > 1:
            largest.append({index for index in part if works[index].gpus == max(counts)})
    parts = {
        "one cell": [{index} for index in everything],
        "one model size": list(sizes.values()),
        "largest GPU count": largest,
    }
    return {name: [p for p in sets if len(p) < len(works)] for name, sets in parts.items()}


def readable_checks(checks: Sequence[Check]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows for people, without checks that left nothing out."""
    headings = ["Cluster", "Left out", "Cells", "Median error (%)", "Largest error (%)"]
    headings += ["In the interval (%)", "Faster (%)", "Slower (%)"]
    rows = []
    for check in checks:
        shares = [check.median_error, check.largest_error]
        shares += [check.coverage, check.below, check.above]
        if check.cells:
            texts = ["" if share is None else format_number(100 * share) for share in shares]
            own = check.trainer == DEFAULT_TRAINER
            where = check.cluster if own else f"{check.cluster}, {check.trainer}"
            rows.append([where, check.left_out, str(check.cells), *texts])
    return headings, rows
