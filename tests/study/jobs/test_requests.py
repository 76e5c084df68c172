"""What rules tell Snakemake about jobs that are not a cell's training."""

from types import SimpleNamespace
from typing import Any

import pytest

from study.jobs.requests import EvaluationRequest, data_is_local, data_resources
from study.jobs.verdict import Shortage
from tests.study.conftest import MakeGrid

SLURM = {"partition": "p", "gpu_request": "gres", "mem_gib": 100, "runtime_min": 60}


def on_slurm(make_grid: MakeGrid, **changes: Any) -> Any:
    cluster = {"gpu_name": "H200", "gpus_per_node": 8, "slurm": {**SLURM, **changes}}
    return make_grid({"clusters": {"here": cluster}})


@pytest.mark.parametrize("local", [False, True])
def test_jobs_without_a_gpu_run_where_the_first_slurm_cluster_says(
    make_grid: MakeGrid, local: bool
) -> None:
    assert data_is_local(on_slurm(make_grid, data={"local": local})) == local
    assert data_is_local(make_grid())


def test_the_resources_of_jobs_without_a_gpu(make_grid: MakeGrid) -> None:
    """2 GiB and half an hour, in the cluster's partition; none on this machine."""
    asked = data_resources(on_slurm(make_grid, data={"mem_gib": 2, "runtime_min": 30, "cpus": 3}))
    values = {name: value(None) for name, value in asked.items()}
    assert (values["mem_mb"], values["runtime"], values["cpus_per_task"]) == (2048, 30, 3)
    assert values["slurm_partition"] == "p"
    here = {name: value(None) for name, value in data_resources(make_grid()).items()}
    assert here == {"mem_mb": 0, "runtime": 0}


def test_an_attempt_of_a_job_with_one_gpu_requests_more_of_time_and_memory(
    make_grid: MakeGrid,
) -> None:
    """Such as an evaluation: one of the cell's GPUs, and with each retry as much again."""
    grid = on_slurm(make_grid)
    asked = EvaluationRequest(grid).resources()
    cell: Any = SimpleNamespace(**grid[1].labels)
    for attempt in (1, 2, 3):
        assert asked["runtime"](cell, attempt) == 60 * attempt
        assert asked["mem_mb"](cell, attempt) == 102_400 * attempt
    assert (grid[1].gpus, asked["gres"]) == (2, "gpu:1")


def test_two_threads_that_ask_at_once_get_the_requests_of_their_own_cells(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake's own asks for jobs that are retried, and the one that polls for continued ones."""
    request = EvaluationRequest(on_slurm(make_grid))
    asked = request.resources()
    first, second = (SimpleNamespace(**cell.labels) for cell in request._grid[:2])
    equal, others = Shortage.__eq__, [lambda: asked["runtime"](second, 3)]

    def switch(self: Shortage, other: object) -> bool:
        """Compare, and let the other thread ask before the answer is used."""
        if others:
            others.pop()()
        return equal(self, other)

    assert asked["runtime"](first, 2) == 120
    monkeypatch.setattr(Shortage, "__eq__", switch)
    assert asked["runtime"](first, 2) == 120
