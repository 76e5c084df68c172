"""The default study's grid in a temporary folder, an executor of its jobs, and Slurm's answers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from study.grid import Grid
from study.jobs import slurm_executor, slurm_queue
from study.jobs.slurm_commands import Answer
from study.load import load_study
from tests.study.jobs.stand_ins import Polled, ask_instead


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


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is printed by a command whose line has certain words."""
    printed: dict[str, str] = {}

    def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
        line = " ".join(command)
        return Answer(0, "".join(out for words, out in printed.items() if words in line), "")

    ask_instead(monkeypatch, ask)
    return printed
