"""Whether the text of a complete run has changed since: by times, as Snakemake, and by content."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from study.grid import Cell, Grid
from study.jobs.workflow import text_files
from study.measure.summaries import find_content
from trainer.json_files import parse_json
from trainer.problems import ConfigError

CHANGED = "its text has changed"
NEWER = "its text is newer: trained again if it differs"

MISSING = float("inf")
"""The time of a text that is not there; no list of shards is newer."""


class TextChanges:
    """The texts of a grid's runs, and the files that list their shards."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._newest = cache(self._find_newest)

    def lists(self, cell: Cell) -> list[str]:
        """Return the files that list the shards of a cell's sources."""
        return [file for _, file in self._listed(cell)]

    def is_older(self, cell: Cell) -> bool:
        """Return whether Snakemake would train a cell again if it looked at times alone."""
        flag = _written(cell.completed_file)
        return flag is not None and any((_written(file) or 0) > flag for file in self.lists(cell))

    def unchanged(self, cell: Cell) -> set[str]:
        """Return those of `lists` with what a cell's complete run was trained on."""
        trained_on = find_content(cell)
        return {file for name, file in self._listed(cell) if self._is_of(name, file, trained_on)}

    def find_change(self, cell: Cell) -> str:
        """Return `CHANGED` or `NEWER` if Snakemake will, or may, train a complete run again."""
        for name, file in self._listed(cell):
            made = _written(file)
            if made is not None and made < self._newest(name) < MISSING:
                return NEWER
        if self.is_older(cell) and self.unchanged(cell) != set(self.lists(cell)):
            return CHANGED
        return ""

    def _listed(self, cell: Cell) -> list[tuple[str, str]]:
        """Return the name of each source of a cell, and the file that lists its shards."""
        names = self._grid.source_names(cell)
        return [(name, f"{self._grid.study.folder}/data/{name}.json") for name in names]

    def _is_of(self, name: str, file: str, trained_on: Mapping[str, str]) -> bool:
        """Return whether a run was trained on the shards that a file lists, and no newer text is
        to be tokenised."""
        made = _written(file)
        if made is None or self._newest(name) > made:
            return False
        try:
            return bool(parse_json(Path(file).read_bytes())["key"] == trained_on[Path(name).name])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _find_newest(self, name: str) -> float:
        """Return when the newest text of a source was written; MISSING if one has to be made."""
        try:
            times = [_written(text) for text in text_files(self._grid, name)]
        except ConfigError:
            return MISSING
        return max((MISSING if time is None else time for time in times), default=MISSING)


def _written(path: str) -> float | None:
    """Return when a file was last written; None if it does not exist."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return None
