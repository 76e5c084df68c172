"""What the end of a metrics.jsonl tells."""

import json
from pathlib import Path

import pytest

from study.show.run_progress import TAIL_BYTES, read_progress
from tests.study.conftest import MakeGrid, write_run
from tests.study.show.watched import RUNNING, first


def test_the_end_of_a_long_file_is_enough(tmp_path: Path, make_grid: MakeGrid) -> None:
    grid = make_grid({"run": {"steps": 2000, "logging": {"freq": 1}}})
    write_run(grid[0], **RUNNING)
    path = Path(grid[0].folder, "metrics.jsonl")
    path.write_text(path.read_text() + '{"global_step": 2001, "lo')
    assert path.stat().st_size > 4 * TAIL_BYTES
    progress = read_progress(path)
    assert progress is not None
    assert progress.step == 2000
    assert progress.pace_s == pytest.approx(0.1)
    assert read_progress(tmp_path / "missing") is None


def test_a_slow_step_is_pointed_out(make_grid: MakeGrid) -> None:
    grid = make_grid({"run": {"logging": {"freq": 5}}})
    write_run(grid[0], step_s=[*[0.1] * 7, 0.25], **RUNNING)
    assert first(grid).note == "steps take x2.5 of its median"


@pytest.mark.parametrize(
    ("last", "note"),
    [
        ([None, 3, 3, 3, None], "rank 3 on node-3 is slow in the forward pass, by 40% of a step"),
        ([3, 3, 3, None, None], "rank 3 on node-3 is slow in the forward pass, by 40% of a step"),
        ([3, None, None, 3, None], ""),  # now and then
        ([1, 3, 1, 3, 2], ""),  # each in turn
        ([3, 3, 3, 3, 3, None, None, None, None, None], ""),  # no longer
    ],
)
def test_a_rank_that_the_others_wait_for(
    make_grid: MakeGrid, last: list[int | None], note: str
) -> None:
    grid = make_grid({"run": {"logging": {"freq": 2}}})
    write_run(grid[0], **RUNNING)
    metrics = Path(grid[0].folder, "metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    for record, rank in zip(records[-len(last) :], last, strict=True):
        if rank is not None:
            slow = {"rank": rank, "host": f"node-{rank}", "part": "forward", "share": 0.4}
            record["ranks/slow"] = slow
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert first(grid).note == note
