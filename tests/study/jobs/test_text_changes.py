"""Which lists of shards hold what a complete run was trained on."""

import json
import os
from pathlib import Path

import pytest

from study.jobs.text_changes import TextChanges
from tests.study.conftest import MakeGrid, write_run


@pytest.mark.parametrize(
    ("text", "listed", "key", "same"),
    [
        pytest.param(10, 20, "same", True, id="listed after it was written"),
        pytest.param(30, 20, "same", False, id="to be tokenised again"),
        pytest.param(10, 20, "other", False, id="another text"),
        pytest.param(10, None, "same", False, id="not listed yet"),
    ],
)
def test_a_list_holds_what_a_run_was_trained_on(
    tmp_path: Path, make_grid: MakeGrid, text: int, listed: int | None, key: str, same: bool
) -> None:
    """When text and list were written, s; Snakemake trains again unless the list is the same."""
    entry = {"cluster": "here", "model": "tiny", "gpus": 1}
    run = {"data": {"root_dir": str(tmp_path)}}
    grid = make_grid({"corpora": [], "run": run, "grid": [entry]})
    write_run(grid[0], content={"python_stdlib": "same"})
    changes = TextChanges(grid)
    (file,) = changes.lists(grid[0])
    source = tmp_path / "python_stdlib"
    for path, seconds in (
        (source / "python_stdlib.val.jsonl", 5),
        (source / "python_stdlib.chunk.00.jsonl", text),
        (Path(file), listed),
    ):
        if seconds is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"key": key}))
            os.utime(path, (seconds, seconds))
    assert changes.unchanged(grid[0]) == ({file} if same else set())
