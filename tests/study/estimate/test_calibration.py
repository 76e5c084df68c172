import pytest

from study.config import ClusterConfig
from study.estimate.calibration import check_cluster, estimate_checks, readable_checks
from study.estimate.performance import Observed
from study.measure.evidence import known_measurements
from tests.study.conftest import MakeGrid, write_run
from tests.study.estimate.test_forecast import measured
from tests.study.estimate.test_performance import SMALL

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


def test_each_check_leaves_out_what_it_says() -> None:
    rows = list(check_cluster("h200", H200, works(1, 2, 4)))
    assert [(row.left_out, row.cells) for row in rows] == [
        ("one cell", 9),
        ("one model size", 9),
        ("largest GPU count", 3),
    ]
    for row in rows:
        assert row.coverage is not None
        assert row.coverage + (row.below or 0) + (row.above or 0) == pytest.approx(1)
    # all counts take the same time: without the largest, the others say so
    assert rows[2].median_error == pytest.approx(0, abs=0.05)


def test_an_outlier_is_counted_as_slower() -> None:
    """Nine consistent cells, and one that takes three times as long as its neighbours suggest."""
    observed = works(1, 2, 4)
    slow = Observed(observed[4].work, 3 * observed[4].step_s, None, None)
    rows = list(check_cluster("h200", H200, [*observed[:4], slow, *observed[5:]]))
    assert rows[0].largest_error == pytest.approx(2 / 3, abs=0.1)
    assert (rows[0].above or 0) >= 1 / 9


def test_a_check_that_leaves_nothing_out_is_not_shown(make_grid: MakeGrid) -> None:
    grid = make_grid({"grid": [{"cluster": "here", "model": "tiny", "gpus": 1}]})
    write_run(grid[0])
    checks = estimate_checks(known_measurements(measured(grid)))
    assert [row.cells for row in checks] == [0, 0, 0]
    assert readable_checks(checks)[1] == []
