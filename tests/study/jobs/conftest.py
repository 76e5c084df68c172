"""The default study's grid, with results in a temporary folder, and an executor of its jobs."""

from pathlib import Path

import pytest
import yaml

from study.grid import Grid
from study.jobs import slurm_executor, slurm_queue
from study.load import load_study
from tests.study.jobs.stand_ins import Polled


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    study = yaml.safe_load(Path("config/config.yaml").read_text())
    return Grid(load_study({**study, "results_dir": str(tmp_path)}))


@pytest.fixture
def executor(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> Polled:
    monkeypatch.setattr(slurm_queue, "list_jobs", None)
    monkeypatch.setattr(slurm_queue, "find_recorded_state", lambda job_id, cluster: "")
    monkeypatch.setattr(slurm_executor, "find_exit_code", lambda job_id, cluster: "1:0")
    return Polled(grid)
