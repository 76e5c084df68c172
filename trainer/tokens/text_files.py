"""Lists the text files of a source and detects changes. Imports no torch.

Reads   names in <root_dir>/<source>/: *.chunk.*.jsonl, also compressed as .jsonl.gz or .jsonl.zst,
        and *.parquet. Held out are *.val.jsonl[.gz|.zst] and *.val.parquet, or, if there are none,
        such a file next to the folder: <root_dir>/<source>.val.jsonl
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.problems import ConfigError

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = ".parquet"
ENDINGS = (*LINES, PARQUET)
"""Endings of the names of text files, which determine their format."""

Stat = list[list[Any]]
"""Path, size in bytes and mtime in ns of each text file; if equal, the text is assumed equal."""


@dataclass(frozen=True)
class TextFiles:
    """The files of one source, each list in sorted order."""

    source: str
    chunks: list[Path]
    held_out: list[Path]

    def stat(self) -> Stat:
        """Return the stat of all files, a quick check for changes. Raises ConfigError."""
        return [stat_file(path) for path in (*self.chunks, *self.held_out)]


def stat_file(path: Path) -> list[Any]:
    """Return path, size and mtime of a file. Raises ConfigError."""
    try:
        stat = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def unreadable(path: Path, error: Exception) -> ConfigError:
    """Return the error for a file that cannot be read."""
    return ConfigError(str(path), [f"cannot be read: {getattr(error, 'strerror', None) or error}"])


def list_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source, without checking them; there may be none."""
    folder = root / source
    held_out = _matching(folder, (f"*.val{ending}" for ending in ENDINGS))
    wanted = [f"*.chunk.*{ending}" for ending in LINES]
    chunks = _matching(folder, [*wanted, f"*{PARQUET}"])
    if not held_out:
        held_out = _matching(root, (f"{source}.val{ending}" for ending in ENDINGS))
    return TextFiles(source, sorted(set(chunks) - set(held_out)), held_out)


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


def find_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source. Raises ConfigError if there are none to train on."""
    folder = root / source
    wanted = f"files named like {source}.chunk.00.jsonl (or .jsonl.gz, .jsonl.zst, .parquet)"
    if not folder.is_dir():
        present = sorted(path.name for path in root.glob("*") if path.is_dir())
        known = f"; {root} has {', '.join(present[:10])}" if present else ""
        raise ConfigError(str(folder), [f"no such folder; expected a folder with {wanted}{known}"])
    files = list_text_files(root, source)
    if not files.chunks:
        names = sorted(path.name for path in folder.iterdir())
        found = ", ".join(names[:5] + ["..."] * (len(names) > 5)) or "nothing"
        raise ConfigError(str(folder), [f"found {found}; expected {wanted}"])
    _reject_copies(folder, [*files.chunks, *files.held_out])
    return files


def _reject_copies(folder: Path, paths: Iterable[Path]) -> None:
    """Raise ConfigError if a file is there in two formats: its text would be read twice."""
    seen: dict[Path, Path] = {}
    for path in paths:
        ending = next(ending for ending in ENDINGS if path.name.endswith(ending))
        first = seen.setdefault(path.with_name(path.name.removesuffix(ending)), path)
        if first != path:
            problem = f"found {first.name} and {path.name}; expected one of them: both are read"
            raise ConfigError(str(folder), [problem])
