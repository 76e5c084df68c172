"""What the runs of a configuration tell together, worked by hand."""

from typing import Any

import pytest

from study.estimate.observed import observe
from study.measure.measurement import Measurement
from tests.study.conftest import MakeGrid


@pytest.fixture
def measured(make_grid: MakeGrid) -> Any:
    """Return a function that makes a measurement of 40 steps of 1 s, of a configuration."""
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": [1, 2]}]})

    def make(number: int = 0, **changes: Any) -> Measurement:
        known = {"source": "", "completed": True, "uninterrupted": True, "startup_s": None,
                 "wall_s": None, "peak_memory_gib": None, "step_s": (1.0, 1.0, 1.0)}  # fmt: skip
        return Measurement(cell=grid[number], **{**known, **changes})

    return make


def test_a_configuration_has_the_medians_of_its_runs(measured: Any) -> None:
    """The first step is no part of a start-up; what was not recorded does not count."""
    runs = [
        measured(mean_s=1.0, startup_s=5.0, peak_memory_gib=2.0),
        measured(mean_s=1.5, startup_s=6.5),
        measured(mean_s=9.0, peak_memory_gib=3.0),
    ]
    other = measured(1, mean_s=7.0, startup_s=2.0)
    both = observe([runs[0], other, *runs[1:]])
    assert [item.work.gpus for item in both] == [1, 2]
    assert [item.speed_key for item in both] == [item.cell.speed_key for item in (runs[0], other)]
    one, two = both
    assert (one.step_s, one.startup_s, one.peak_memory_gib) == (1.5, 4.5, 2.5)
    # A start-up that ended before its first step had the usual time has taken some all the same.
    assert (two.step_s, two.startup_s, two.peak_memory_gib) == (7.0, 0.1, None)


def test_the_rest_of_a_whole_run_is_what_start_up_and_steps_leave(measured: Any) -> None:
    """39 steps of 1 s follow the first one, which is in the start-up."""
    runs = [
        measured(wall_s=50.0, startup_s=5.0),
        measured(wall_s=43.0, startup_s=5.0),  # less than both together
        measured(wall_s=50.0, startup_s=5.0, uninterrupted=False),
        measured(startup_s=5.0),
    ]
    (item,) = observe(runs)
    assert [seconds for _, seconds in item.rests] == [50.0 - 39 - 5, 0.1]
    assert item.rests_with_startup == ()


def test_without_a_start_up_the_rest_includes_it(measured: Any) -> None:
    """Without the first step; a run of less than 40 s contradicts its steps."""
    (item,) = observe([measured(wall_s=50.0), measured(wall_s=40.0), measured(wall_s=35.0)])
    assert [seconds for _, seconds in item.rests_with_startup] == [50.0 - 40]
    assert (item.rests, item.startup_s) == ((), None)


def test_the_dtype_of_a_run_is_that_of_its_work(measured: Any) -> None:
    found = [observe([measured(model_dtype=dtype)])[0].work for dtype in ("bf16", "fp32")]
    assert [work.value_bytes for work in found] == [2, 4]
