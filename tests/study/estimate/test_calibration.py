from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.published_tables import H100, read_mpt
from study.cluster_config import ClusterConfig
from study.estimate.calibration import (
    Check,
    check_cluster,
    estimate_checks,
    leave_one_out,
    readable_checks,
)
from study.estimate.observed import Observed
from study.estimate.performance import Performance
from study.estimate.regression import Hyper, Regression
from study.measure.evidence import known_measurements
from tests.study.conftest import MakeGrid, measured, write_run
from tests.study.estimate.workloads import SMALL

H200 = ClusterConfig(gpu_name="H200", peak_tflops=989.5, gpus_per_node=8)


def works(*gpus: int) -> list[Observed]:
    shapes = [(512, 8), (768, 12), (1024, 16)]
    return [
        Observed(
            type(SMALL)(**{**SMALL.__dict__, "dim": dim, "n_layers": layers, "gpus": count,
                           "params": 12 * layers * dim**2, "matmul_params": 12 * layers * dim**2}),
            0.01 * layers * (dim / 512) ** 2,
            None,
            None,
        )
        for dim, layers in shapes
        for count in gpus
    ]  # fmt: skip


@pytest.mark.parametrize("gpus", [(1, 2), (1, 2, 4)])
def test_each_check_leaves_out_what_it_says(gpus: tuple[int, ...]) -> None:
    rows = list(check_cluster("h200", H200, works(*gpus)))
    assert [(row.left_out, row.cells) for row in rows] == [
        ("one cell", 3 * len(gpus)),
        ("one model size", 3 * len(gpus)),
        ("largest GPU count", 3),
    ]
    for row in rows:
        assert row.coverage is not None
        assert row.coverage + (row.below or 0) + (row.above or 0) == pytest.approx(1)
    # all counts take the same time: without the largest, the others say so
    assert rows[2].median_error == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("factor", "error", "side"), [(3, 2 / 3, "above"), (1 / 3, 2.0, "below")])
def test_an_outlier_is_counted_as_slower_or_faster(factor: float, error: float, side: str) -> None:
    """Eight consistent cells, and one that takes three times or a third of what they suggest."""
    observed = works(1, 2, 4)
    other = Observed(observed[4].work, factor * observed[4].step_s, None, None)
    rows = list(check_cluster("h200", H200, [*observed[:4], other, *observed[5:]]))
    assert rows[0].largest_error == pytest.approx(error, rel=0.2)
    assert 1 / 9 <= getattr(rows[0], side) <= 2 / 9
    assert (rows[0].coverage or 0) > 1 / 3


def test_the_largest_gpu_count_of_each_size_is_predicted_from_the_smaller_ones() -> None:
    """Four GPUs take three times as long as one and two."""
    observed = [
        Observed(item.work, item.step_s * (3 if item.work.gpus == 4 else 1), None, None)
        for item in works(1, 2, 4)
    ]
    largest = list(check_cluster("h200", H200, observed))[2]
    assert (largest.cells, largest.above, largest.below) == (3, 1.0, 0.0)


def test_leaving_cells_out_of_a_fit_is_like_fitting_the_others() -> None:
    """Half the table of MPT on H100, a cell or a size out, against models of the other rows."""
    rows = read_mpt()[::2]
    whole, errors, widths = Performance(H100, rows), [], []
    sizes = {row.work.shape for row in rows}
    parts = [{at} for at in range(0, len(rows), 4)]
    parts += [{at for at, row in enumerate(rows) if row.work.shape == shape} for shape in sizes]
    for part in parts:
        direct = Performance(H100, [row for at, row in enumerate(rows) if at not in part])
        model = whole.without(part)
        for at in part:
            quick, slow = (one.step(rows[at].work) for one in (model, direct))
            errors.append(abs(np.log(quick.middle / slow.middle)))
            widths.append(np.log(quick.high / quick.low) / np.log(slow.high / slow.low))
    assert np.median(errors) < 0.003
    assert np.median(widths) == pytest.approx(1, abs=0.1)
    # A few rows alone determine a coefficient: without them it depends on the hyperparameters.
    assert np.quantile(errors, 0.9) < 0.02
    assert np.quantile(np.abs(np.log(widths)), 0.9) < 0.5


def test_hyperparameters_are_chosen_once_for_all_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = []
    fit = Regression._choose

    def counted(regression: Regression, hypers: Sequence[Hyper]) -> tuple[Hyper, np.ndarray]:
        candidates.append(len(hypers))
        return fit(regression, hypers)

    monkeypatch.setattr(Regression, "_choose", counted)
    rows = list(check_cluster("h200", H200, works(*range(1, 9))))
    assert [row.cells for row in rows] == [24, 24, 3]
    assert len([count for count in candidates if count > 1]) == 1


def test_of_many_measurements_evenly_spread_ones_are_left_out(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most four of six: every second one."""
    for limit in ("MOST_PARTS", "MOST_SHOWN"):
        monkeypatch.setattr(f"study.estimate.calibration.{limit}", 4)
    cells = {"model": ["tiny", "wide"], "gpus": [1, 2, 4]}
    grid = make_grid({"grid": [{"cluster": "here", **cells}]})
    for cell in grid:
        write_run(cell)
    known = known_measurements(measured(grid))
    assert [item.cell for item in leave_one_out(known)] == [cell.name for cell in grid[::2]]
    assert [row.cells for row in estimate_checks(known)] == [3, 6, 2]


def test_a_check_that_leaves_nothing_out_is_not_shown(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    checks = estimate_checks(known_measurements(measured(grid)))
    assert [row.cells for row in checks] == [0, 0, 0]
    assert readable_checks(checks)[1] == []


def test_a_cluster_is_predicted_from_its_own_measurements(make_grid: MakeGrid) -> None:
    """Beside those of a cluster that is a hundred times as slow."""
    cells = {"model": ["tiny", "wide"], "gpus": [1, 2]}
    grid = make_grid({"grid": [{"cluster": ["here", "fast"], **cells}]})
    for cell in grid:
        write_run(cell, step_s=0.01 if cell.cluster == "fast" else 1.0)
    known = known_measurements(measured(grid))
    for judge in (leave_one_out, estimate_checks):
        parts = [judge([item for item in known if item.cell.cluster == name])
                 for name in ("here", "fast")]  # fmt: skip
        assert judge(known) == [*parts[0], *parts[1]]


def test_checks_are_shown_in_percent() -> None:
    rows = [Check("here", "one cell", 4, 0.0123, 0.5, 0.75, None, 0.25, "lingua"),
            Check("here", "one cell", 2, 0.1, 0.2, 1.0, 0.0, 0.0),
            Check("here", "largest GPU count", 0, None, None, None, None, None)]  # fmt: skip
    headings, cells = readable_checks(rows)
    assert cells == [
        ["here, lingua", "one cell", "4", "1.23", "50", "75", "", "25"],
        ["here", "one cell", "2", "10", "20", "100", "0", "0"],
    ]
    assert len(headings) == len(cells[0])
