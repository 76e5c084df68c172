"""Before the first job: may its files be written? Results may be another user's."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from study.grid import Cell, Grid
from study.points import LOGS
from trainer.problems import ConfigError

APPENDED = (".lock", *LOGS)
"""Files of a run that every attempt opens; all others are replaced."""

MOST_NAMED = 5
"""Most files that are named."""

ADVICE = (
    "To share results, see docs/failures.md. To look at them: `python -m study plan`, `watch`, "
    "`show` and `compare` write nothing."
)


def find_unwritable(grid: Grid, cells: Sequence[Cell]) -> str:
    """Return what this user may not write of the study's folder, and of the runs to be trained;
    empty if nothing. Otherwise Snakemake and each job would end with a traceback."""
    paths = dict.fromkeys([_existing(Path(grid.study.folder)), *_files(cells)])
    found = [path for path in paths if not os.access(path, os.W_OK)]
    if not found:
        return ""
    named = [f"{path}: not writable; it belongs to {_owner(path)}" for path in found[:MOST_NAMED]]
    more = len(found) - MOST_NAMED
    named += [f"and {more:,} more"] if more > 0 else []
    return f"{ConfigError('results', named)}\n{ADVICE}"


def _files(cells: Sequence[Cell]) -> Iterator[Path]:
    for cell in cells:
        folder = Path(cell.folder)
        yield _existing(folder)
        yield from (folder / name for name in APPENDED if _is_seen(folder / name))


def _existing(folder: Path) -> Path:
    """Return a folder, or the first one above it that this user can see."""
    return next((path for path in (folder, *folder.parents) if _is_seen(path)), folder)


def _is_seen(path: Path) -> bool:
    return os.access(path, os.F_OK)  # Path.exists raises an error if a folder above is closed


def _owner(path: Path) -> str:
    """Return the name of a file's owner; the number of one that this machine does not know."""
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"
