"""Runs that go on while a study is watched, and what the live view sees of them."""

import os
import time
from pathlib import Path
from typing import Any

from study.grid import Cell, Grid
from study.show.watch import Seen, Watch
from tests.study.conftest import write_run

RUNNING = {"status": "running", "outcome": None, "steps_done": 20}


def write_part(cell: Cell, share: float = 0.5, age_s: float = 0.0, **changes: Any) -> None:
    """Write a run of which only the first records exist, the last one some time ago."""
    write_run(cell, **{**RUNNING, **changes})
    metrics = Path(cell.folder, "metrics.jsonl")
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[: round(share * len(lines))]))
    then = time.time() - age_s
    for name in ("metrics.jsonl", "run.json"):
        os.utime(Path(cell.folder, name), (then, then))


def look(grid: Grid) -> dict[str, Seen]:
    return {item.cell.name: item for item in Watch(grid).look()}


def first(grid: Grid) -> Seen:
    return next(iter(look(grid).values()))
