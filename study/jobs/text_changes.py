"""Whether the text of a complete run has changed since: by the facts of its files, and by content.

The list of a source's shards says of which files they were made. If these are others now, the text
is read again; whether it is another, and runs are trained again, its content decides.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from study.grid import Cell, Grid
from study.jobs.workflow import text_files
from study.measure.summaries import find_content
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.tokens.text_files import are_alike, describe_texts, list_text_files

CHANGED = "its text has changed"
NEWER = "its text is newer: trained again if it differs"
REPLACED = "its text files have changed: trained again if the text differs"

MISSING = float("inf")
"""The time of a text that is not there; no list of shards is newer."""


class TextChanges:
    """The texts of a grid's runs, and the files that list their shards."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._newest = cache(self._find_newest)
        self._facts = cache(self._describe)
        self._read = cache(_read)

    def lists(self, cell: Cell) -> list[str]:
        """Return the files that list the shards of a cell's sources."""
        return [file for _, file in self._listed(cell)]

    @property
    def outdated(self) -> list[str]:
        """The files that list shards made of other text files than those that are there now.

        Snakemake notices only newer files; those of another folder or an archive may be older.
        """
        names = self._grid.sources
        return [file for name in names if self._is_replaced(name, file := self._list_of(name))]

    def is_older(self, cell: Cell) -> bool:
        """Return whether Snakemake would train a cell again if it looked at times alone."""
        flag = _written(cell.completed_file)
        return flag is not None and any((_written(file) or 0) > flag for file in self.lists(cell))

    def unchanged(self, cell: Cell) -> set[str]:
        """Return those of `lists` with what a cell's complete run was trained on."""
        trained_on = find_content(cell)
        return {file for name, file in self._listed(cell) if self._is_of(name, file, trained_on)}

    def find_change(self, cell: Cell) -> str:
        """Return `CHANGED`, `NEWER` or `REPLACED` if Snakemake will, or may, train a complete run
        again."""
        for name, file in self._listed(cell):
            made = _written(file)
            if made is not None and made < self._newest(name) < MISSING:
                return NEWER
            if self._is_replaced(name, file):
                return REPLACED
        if self.is_older(cell) and self.unchanged(cell) != set(self.lists(cell)):
            return CHANGED
        return ""

    def _listed(self, cell: Cell) -> list[tuple[str, str]]:
        """Return the name of each source of a cell, and the file that lists its shards."""
        names = self._grid.source_names(cell)
        return [(name, self._list_of(name)) for name in names]

    def _list_of(self, name: str) -> str:
        return f"{self._grid.study.folder}/data/{name}.json"

    def _is_of(self, name: str, file: str, trained_on: Mapping[str, str]) -> bool:
        """Return whether a run was trained on the shards that a file lists, and no newer text is
        to be tokenised."""
        made = _written(file)
        if made is None or self._newest(name) > made or self._is_replaced(name, file):
            return False
        try:
            return bool(self._read(file, made)["key"] == trained_on[Path(name).name])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _is_replaced(self, name: str, file: str) -> bool:
        """Return whether a file lists shards made of other text files than those of a source.

        It is not known if the text has to be made, or the list is of an older version.
        """
        made = _written(file)
        if made is None or self._newest(name) == MISSING or (facts := self._facts(name)) is None:
            return False
        try:
            return not are_alike(self._read(file, made)["made_of"], facts)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _describe(self, name: str) -> dict[str, Any] | None:
        """Return the facts of the text files of a source; None if there are none, as in a copy of
        results alone, or if they cannot be found out."""
        data = self._grid.sources[name]
        root = Path(data.root_dir)
        try:
            texts = list_text_files(root, Path(name).name)
            return describe_texts(root, texts, data.tokenizer.path) if texts.on_disk else None
        except ConfigError:
            return None

    def _find_newest(self, name: str) -> float:
        """Return when the newest text of a source was written; MISSING if one has to be made."""
        try:
            times = [_written(text) for text in text_files(self._grid, name)]
        except ConfigError:
            return MISSING
        return max((MISSING if time is None else time for time in times), default=MISSING)


def _read(file: str, written: float) -> Any:
    """Return the content of a file that lists shards; it is kept until it is written again."""
    return parse_json(Path(file).read_bytes())


def _written(path: str) -> float | None:
    """Return when a file was last written; None if it does not exist."""
    try:
        return Path(path).stat().st_mtime
    except OSError:
        return None
