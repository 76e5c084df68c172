"""IsoFLOP profiles of a scaling law's runs: of budgets that sizes share, the best size.

The grid need not ask for these budgets, as it does for the curves of `study.analysis.isoflop`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.analysis.curve import fit_curve, near_lowest
from study.analysis.isoflop import NEAR
from study.law.scaling_law import TrainedModel

FEWEST_SIZES = 4
"""Fewest sizes of a profile."""

SAME_BUDGET = 1.1
"""Factor within which budgets count as the same."""


@dataclass(frozen=True)
class IsoFlop:
    """Runs with one compute budget, and the model size with the lowest loss among them."""

    flops: float
    """Geometric mean of the runs' budgets."""
    runs: tuple[TrainedModel, ...]
    params: float | None
    """Minimum of the curve of loss over log N, fitted to sizes within a factor of `NEAR` of
    the lowest loss; None outside these sizes, or if they are fewer than four."""
    loss: float | None


def isoflop_profiles(runs: Sequence[TrainedModel]) -> list[IsoFlop]:
    """Return the budgets shared by at least four model sizes, within a factor of `SAME_BUDGET`.

    Approach 2 of Hoffmann et al. 2022, section 3.2.
    """
    groups: list[list[TrainedModel]] = []
    for run in sorted(runs, key=lambda run: run.flops):
        if groups and run.flops <= groups[-1][0].flops * SAME_BUDGET:
            groups[-1].append(run)
        else:
            groups.append([run])
    return [
        _profile(group) for group in groups if len({run.params for run in group}) >= FEWEST_SIZES
    ]


def _profile(runs: Sequence[TrainedModel]) -> IsoFlop:
    flops = math.exp(float(np.mean(np.log([run.flops for run in runs]))))
    near = near_lowest([run.params for run in runs], [run.loss for run in runs], NEAR)
    curve = fit_curve(
        [math.log(runs[index].params) for index in near], [runs[index].loss for index in near]
    )
    if curve is None or curve.places < FEWEST_SIZES or curve.minimum is None:
        return IsoFlop(flops, tuple(runs), None, None)
    return IsoFlop(flops, tuple(runs), math.exp(curve.minimum), curve(curve.minimum))
