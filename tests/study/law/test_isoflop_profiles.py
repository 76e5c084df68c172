"""IsoFLOP profiles of planted laws."""

import numpy as np
import pytest

from study.law.isoflop_profiles import isoflop_profiles
from study.law.scaling_law import ScalingLaw, TrainedModel

PLANTED = ScalingLaw(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28)


def test_isoflop_profiles_find_the_optimum_of_a_budget() -> None:
    """Sizes around the optimum of 1e20 FLOPs: the parabola's lowest point is near it."""
    best, _ = PLANTED.optimum(1e20)
    sizes = best * np.array([0.5, 0.7, 1.0, 1.4, 2.0])
    runs = [TrainedModel("", n, 1e20 / 6 / n, PLANTED.loss(n, 1e20 / 6 / n)) for n in sizes]
    (profile,) = isoflop_profiles([*runs, TrainedModel("", 1e7, 1e9, 4.0)])
    assert profile.flops == pytest.approx(1e20)
    assert profile.params == pytest.approx(best, rel=0.1)


@pytest.mark.parametrize(("ratio", "flops"), [(1.09, [1e20 * 1.09**0.5]), (1.12, [1e20, 1.12e20])])
def test_budgets_within_a_tenth_are_one(ratio: float, flops: list[float]) -> None:
    best, _ = PLANTED.optimum(1e20)
    runs = [
        TrainedModel("", n, budget / 6 / n, PLANTED.loss(n, budget / 6 / n))
        for n in best * np.array([0.5, 0.7, 1.4, 2.0])
        for budget in (1e20, ratio * 1e20)
    ]
    assert [profile.flops for profile in isoflop_profiles(runs)] == pytest.approx(flops)


@pytest.mark.parametrize("apart", [2.0, 1.3], ids=["few near the lowest loss", "rising"])
def test_sizes_beyond_the_optimum_have_no_minimum(apart: float) -> None:
    best, _ = PLANTED.optimum(1e20)
    sizes = 4 * best * apart ** np.arange(5)
    runs = [TrainedModel("", n, 1e20 / 6 / n, PLANTED.loss(n, 1e20 / 6 / n)) for n in sizes]
    (profile,) = isoflop_profiles(runs)
    assert (len(profile.runs), profile.params, profile.loss) == (5, None, None)


def test_sizes_far_from_the_lowest_loss_do_not_move_an_isoflop_minimum() -> None:
    """From a fiftieth to fifty times the optimum, the loss is not a parabola."""
    best, _ = PLANTED.optimum(1e20)
    sizes = best * np.array([0.02, 0.05, 0.35, 0.6, 1.1, 2.0, 3.5, 20.0, 50.0])
    runs = [TrainedModel("", n, 1e20 / 6 / n, PLANTED.loss(n, 1e20 / 6 / n)) for n in sizes]
    (profile,) = isoflop_profiles(runs)
    assert profile.params == pytest.approx(best, rel=0.15)
    assert len(profile.runs) == 9
    far = [run for run in runs if not best / 2 < run.params < best * 2.5]
    assert isoflop_profiles(far)[0].params is None
