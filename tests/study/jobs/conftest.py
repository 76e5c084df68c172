"""The default study's grid, with results in a temporary folder."""

from pathlib import Path

import pytest
import yaml

from study.grid import Grid
from study.load import load_study


@pytest.fixture
def grid(tmp_path: Path) -> Grid:
    study = yaml.safe_load(Path("config/config.yaml").read_text())
    return Grid(load_study({**study, "results_dir": str(tmp_path)}))
