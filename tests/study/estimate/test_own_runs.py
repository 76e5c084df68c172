"""What the runs of a configuration tell of another run of it, worked by hand."""

from typing import Any

import pytest

from study.estimate.intervals import PredictionInterval
from study.estimate.own_runs import another_run, find_doubt, find_gpu_name
from study.measure.measurement import Measurement
from tests.study.conftest import GUIDE, MakeGrid


@pytest.fixture
def measured(make_grid: MakeGrid) -> Any:
    """Return a function that makes a measurement on the CPU: even steps, and enough of them."""

    def make(**changes: Any) -> Measurement:
        known = {"source": "", "completed": True, "uninterrupted": True, "startup_s": None,
                 "wall_s": None, "peak_memory_gib": None, "step_s": (1.0, 1.0, 1.0),
                 "steady_steps": 100, "steady_intervals": 10}  # fmt: skip
        return Measurement(cell=make_grid()[0], **{**known, **changes})

    return make


@pytest.mark.parametrize(
    ("count", "low"),
    [
        pytest.param(9, 1.0, id="of nine runs, each is inside the interval"),
        pytest.param(10, 8.0, id="of more, one may be outside"),
    ],
)
def test_the_interval_of_another_run(count: int, low: float) -> None:
    """All runs take 10 but one, which takes 1; others may be 2 below a run and 3 above it."""
    first, other = PredictionInterval(-1.0, 1.0, 4.0), PredictionInterval(8.0, 10.0, 13.0)
    found = another_run([first, *[other] * (count - 1)])
    assert (found.low, found.middle, found.high) == (low, 10.0, 13.0)


def test_the_name_of_a_cpu_is_added_if_it_was_recorded(make_grid: MakeGrid, measured: Any) -> None:
    cpu, gpu = make_grid()[0], make_grid(GUIDE)[0]
    assert find_gpu_name(cpu, [measured()]) is None
    epycs = [measured(gpu_name="EPYC"), measured(), measured(gpu_name="EPYC")]
    assert find_gpu_name(cpu, epycs) == "CPU core (EPYC)"
    h200s = [measured(gpu_name="NVIDIA H200"), measured(gpu_name="NVIDIA H100")]
    assert find_gpu_name(gpu, h200s) == "H200, H100"


@pytest.mark.parametrize(
    ("runs", "doubt"),
    [
        ([{}, {}], ""),
        (
            [{"step_s": (0.9, 1.0, 1.2)}, {"step_s": (1.5, 2.0, 2.6)}, {}],
            "with a wide spread (p90 - p10 of the step time is 55% of p50)",
        ),
        (
            # of 8 cores more than a tenth, of 64 less
            [{"machine_load": 1.0, "machine_cores": 8}, {"machine_load": 4.0, "machine_cores": 64}],
            "on a busy machine (other processes took 1.0 of its 8 cores)",
        ),
        ([{"machine_load": 4.0}], ""),
        ([{"steady_intervals": n} for n in (2, 1)], "with only 2 intervals in steady state"),
        ([{"steady_intervals": 3}, {"steady_intervals": 4}], ""),
        ([{"steady_steps": None}, {"steady_steps": None}], "over an unknown number of steps"),
        ([{"steady_steps": None}, {}], ""),
        (
            [{"diverged": True, "steps_done": 7}, {"diverged": True, "steps_done": 1200}],
            "from a run that diverged at step 1,200",
        ),
        (
            [{"diverged": True, "steps_done": 7}, {"diverged": True}],
            "from a run that diverged at step 7",
        ),
        ([{"diverged": True}], "from a run that diverged"),
        ([{"diverged": True, "steps_done": 7}, {"steps_done": 40}], ""),
        (
            [{"steady_steps": None, "step_s": (1.0, 2.0, 3.0)}],
            "with a wide spread (p90 - p10 of the step time is 100% of p50), "
            "over an unknown number of steps",
        ),
    ],
)
def test_why_measurements_may_be_unreliable(
    measured: Any, runs: list[dict[str, Any]], doubt: str
) -> None:
    assert find_doubt([measured(**changes) for changes in runs]) == doubt
