"""What is done before the first job, with another executor than Slurm's; tests/slurm has that."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.jobs.dispatch import find_impossible_here, start
from study.jobs.requests import TrainingRequest
from tests.study.conftest import MakeGrid


def test_an_executor_that_is_not_extended_is_prepared_too(make_grid: MakeGrid) -> None:
    """For example that of `--touch`."""
    grid = make_grid()
    cell = grid[0]
    wildcards = SimpleNamespace(**{key: str(value) for key, value in cell.labels.items()})
    job = SimpleNamespace(
        output=[f"{cell.folder}/completed"],
        wildcards=wildcards,
        params=SimpleNamespace(
            settings=TrainingRequest(grid).settings(wildcards),
            config=f"{cell.folder}/settings.yaml",
        ),
        is_group=lambda: False,
    )
    limits: dict[str, Any] = {"_cores": None}
    workflow = SimpleNamespace(
        scheduler=SimpleNamespace(_executor=object(), global_resources=limits, resources=limits),
        dag=SimpleNamespace(needrun_jobs=lambda: [job]),
        resource_settings=SimpleNamespace(cores=2),
    )
    start(workflow, grid)
    assert limits["_cores"] == 2
    assert Path(job.params.config).read_text() == cell.run.to_yaml()


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, 2), ("0", 1), ("1,0", 2), ("", 0), ("5", 0), ("GPU-8f1c", 1), ("MIG-1,MIG-2", 2)],
)
def test_a_run_on_this_machine_needs_gpus_that_it_may_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_grid: MakeGrid,
    visible: str | None,
    found: int,
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: H200 (UUID: a)'\necho 'GPU 1: H200 (UUID: b)'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    grid = make_grid({"clusters": {"here": {"device": "cuda", "gpu_name": "H200"}}})
    executor: Any = SimpleNamespace(cell=lambda job: job.cell)
    jobs = [SimpleNamespace(cell=cell, is_local=True) for cell in grid if cell.gpus == 2]
    problems = find_impossible_here(executor, jobs)
    if found >= 2:
        assert problems == []
    else:
        assert problems[0].endswith(f"needs 2 GPUs, found {found}")
