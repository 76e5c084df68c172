"""Before the first job: is what runs start from there? `checkpoint.init_ckpt_path` and
`.continue_from`.

Only paths that the job sees as this machine does are checked here; the job checks the others.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from study.grid import Cell, Grid
from study.measure.summaries import describe_reasons, is_stale, is_up_to_date
from trainer.files import SUPERSEDED
from trainer.folder.run_file import find_summary

KEYS = ("init_ckpt_path", "continue_from")
"""Keys of `checkpoint` that name what a run starts from."""


def find_missing_starts(grid: Grid, cells: Iterable[Cell]) -> list[str]:
    """Return a line for each path that cells to be trained start from, and that is missing."""
    reasons = {}
    for cell in cells:
        for key, path in _starts(cell):
            if not _is_missing(path) or not _is_seen_by(cell, path):
                continue
            if not _has_begun(cell) and not _is_coming(grid, path):
                reasons[cell.name] = f"checkpoint.{key}: {path} does not exist"
    return describe_reasons(reasons, "cannot start")


def _starts(cell: Cell) -> Iterator[tuple[str, Path]]:
    """Yield each key that says what a run starts from, with its path; not those of a run that
    Snakemake trains after the one that it starts from."""
    if cell.run.checkpoint is None or cell.trunk or not cell.trainer_config.is_native:
        return
    for key in KEYS:
        path = getattr(cell.run.checkpoint, key)
        if path is not None:
            yield key, Path(path)


def _has_begun(cell: Cell) -> bool:
    """Return whether a run with the cell's present settings has taken a step, so that the next job
    resumes from its checkpoints."""
    folder = Path(cell.folder)
    found = map(find_summary, (folder, *(folder / SUPERSEDED).glob("*")))
    return any(run and not is_stale(cell, run) and run.steps_done for run in found)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # such as a folder that may not be searched: the job says so
        return False
    return False


def _is_seen_by(cell: Cell, path: Path) -> bool:
    """Return whether a cell's job has the same files at a path as this machine.

    A container has its own. A node of Slurm shares the file systems of the working folder and of
    the results, whatever else it may have under a path that is missing here.
    """
    config = cell.cluster_config
    if config.container is not None or config.slurm is None:
        return config.container is None
    return _file_system(path) in map(_file_system, (Path(), Path(cell.folder)))


def _file_system(path: Path) -> int:
    """Return the number of the file system that a path is on, or would be."""
    folders: Sequence[Path] = (path.absolute(), *path.absolute().parents)
    return next(folder.stat().st_dev for folder in folders if folder.exists())


def _is_coming(grid: Grid, path: Path) -> bool:
    """Return whether a path is in the folders of a run that is still to be trained."""
    real = Path(os.path.realpath(path))
    for cell in grid.measured:
        own = cell.run.checkpoint.path if cell.run.checkpoint else None
        folders = [Path(os.path.realpath(folder)) for folder in (cell.folder, own) if folder]
        if any(real.is_relative_to(folder) for folder in folders) and not is_up_to_date(cell):
            return True
    return False
