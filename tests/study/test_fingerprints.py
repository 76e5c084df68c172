"""Keys of runs stay as they are: what has been measured is not measured again after an update."""

from pathlib import Path

import pytest

from study.grid import Cell
from study.load import load_grid_file
from study.measure.throughput_row import read_rows

PUBLISHED = {
    "config/config.yaml": "results/published/cpu-demo",
    "config/studies/h200.yaml": "results/published/h200",
}


@pytest.mark.parametrize("file", PUBLISHED)
def test_the_published_runs_are_those_of_todays_cells(file: str) -> None:
    rows = read_rows(Path(PUBLISHED[file], "throughput.csv"))
    cells = {tuple(cell.labels.values()): cell for cell in load_grid_file(file)}
    assert len(rows) >= 7
    for row in rows:
        cell = cells[row.cluster, row.model, row.gpus, row.variant, row.seed]
        assert (row.fingerprint, row.speed_key) == (cell.fingerprint, cell.speed_key)


# The first cell of each study: its fingerprint, speed key, and the key of its losses.
KEYS = {
    "config/config.yaml": "b9be6c74a30da392 367d0b9cfab70ebe 645347d8c7ed17b5",
    "config/studies/h200.yaml": "7e043aeccbabb7dc 4500cbe1d1c11842 b29044899021cf19",
    "config/studies/switches.yaml": "b49a7177647d4131 725fb5e7ec1efb3d 8b7f5863726fd2e6",
    "config/studies/lingua.yaml": "b60379d0da37a93e 4500cbe1d1c11842 fe75298156f7332e",
    "config/studies/slurm-trial.yaml": "a8ea5a6bf01938b4 307fea3f0168452b 46f216fcb1069603",
}


@pytest.mark.parametrize("file", KEYS)
def test_keys_of_the_shipped_studies(file: str) -> None:
    """Whoever changes a key on purpose says in CHANGELOG.md which runs are made again."""
    cell: Cell = load_grid_file(file)[0]
    keys = (cell.fingerprint, cell.speed_key, cell.run.trajectory(cell.gpus))
    assert " ".join(keys) == KEYS[file]
