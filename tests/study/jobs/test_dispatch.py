"""What is done before the first job, with another executor than Slurm's; tests/slurm has that."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from study.jobs.dispatch import start
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
