"""IsoFLOP profiles of planted laws."""

from dataclasses import replace

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


def bowl(steps: list[float], budgets: list[float] | None = None) -> list[TrainedModel]:
    """Return runs of 1e18 FLOPs, or these, with a loss of 2 + u^2 at u = ln(N / 1e8)."""
    found = []
    for index, u in enumerate(steps):
        params = 1e8 * np.exp(u)
        flops = budgets[index] if budgets else 1e18
        found.append(TrainedModel("", params, flops / 6 / params, 2 + u**2))
    return found


def test_the_minimum_of_a_parabola_is_that_worked_by_hand() -> None:
    """No run is at the lowest point."""
    (profile,) = isoflop_profiles(bowl([-1.0, -0.5, 0.5, 1.0]))
    assert (profile.params, profile.loss) == pytest.approx((1e8, 2.0))


def test_a_profile_needs_four_sizes() -> None:
    """Also near the lowest loss: ln 5 = 1.61 from it, on either side."""
    assert isoflop_profiles(bowl([-1.0, 0.0, 1.0, 1.0])) == []
    for far in (-1.7, 1.7):
        (profile,) = isoflop_profiles(bowl([-1.0, 0.0, 1.0, far]))
        assert (len(profile.runs), profile.params) == (4, None)
    for near in (-1.6, 1.6):
        (profile,) = isoflop_profiles(bowl([-1.0, 0.0, 1.0, near]))
        assert profile.params == pytest.approx(1e8)


def test_the_sizes_near_the_lowest_mean_count() -> None:
    """Of two seeds beyond them, one is lower than every other run."""
    runs = bowl([-1.0, -0.5, 0.5, 1.0])
    far = [replace(run, loss=loss) for run, loss in zip(bowl([2.0, 2.0]), (1.9, 9.0), strict=True)]
    (profile,) = isoflop_profiles([*runs, *far])
    assert (profile.params, profile.loss) == pytest.approx((1e8, 2.0))


def test_budgets_are_the_same_as_the_smallest_of_them() -> None:
    """Of five, each 6% above the last, the first two are one budget: too few sizes."""
    budgets = [1e18 * 1.06**n for n in range(5)]
    assert isoflop_profiles(bowl([-1.0, -0.5, 0.0, 0.5, 1.0], budgets)) == []
