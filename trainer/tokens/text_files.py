"""The text files of a source: which there are, and whether they have changed. Imports no torch.

Reads   of <root_dir>/<source>/, as names only: *.chunk.*.jsonl, also compressed as .jsonl.gz or
        .jsonl.zst, and *.parquet. Held out are *.val.jsonl[.gz|.zst] and *.val.parquet, or one such
        file beside the folder, <root_dir>/<source>.val.jsonl
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.problems import ConfigError

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = ".parquet"
ENDINGS = (*LINES, PARQUET)
"""What the name of a text file ends in; its ending says how it is read."""

Stat = list[list[Any]]
"""Path, size in bytes and mtime in ns of each text file: if equal, the text is taken as equal."""


@dataclass(frozen=True)
class TextFiles:
    """The files of one source, each list in sorted order."""

    source: str
    chunks: list[Path]
    held_out: list[Path]

    def stat(self) -> Stat:
        """Return what tells quickly whether the files have changed. Raises ConfigError."""
        return [stat_file(path) for path in (*self.chunks, *self.held_out)]


def stat_file(path: Path) -> list[Any]:
    """Return path, size and mtime of a file. Raises ConfigError."""
    try:
        stat = path.stat()
    except OSError as error:
        raise unreadable(path, error) from None
    return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]


def unreadable(path: Path, error: Exception) -> ConfigError:
    """Return the error that names a file which cannot be read."""
    return ConfigError(str(path), [f"cannot be read: {getattr(error, 'strerror', None) or error}"])


def list_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source as they are; there may be none."""
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
    """Return the text files of a source. Raises ConfigError where there are none to train on."""
    folder = root / source
    wanted = f"files named like {source}.chunk.00.jsonl (or .jsonl.gz, .jsonl.zst, .parquet)"
    if not folder.is_dir():
        present = sorted(path.name for path in root.glob("*") if path.is_dir())
        known = f"; {root} holds {', '.join(present[:10])}" if present else ""
        raise ConfigError(str(folder), [f"no such folder; expected a folder with {wanted}{known}"])
    files = list_text_files(root, source)
    if not files.chunks:
        names = sorted(path.name for path in folder.iterdir())
        found = ", ".join(names[:5] + ["..."] * (len(names) > 5)) or "nothing"
        raise ConfigError(str(folder), [f"found {found}; expected {wanted}"])
    _refuse_twins(folder, [*files.chunks, *files.held_out])
    return files


def _refuse_twins(folder: Path, paths: Iterable[Path]) -> None:
    """Refuse a file that stands beside its compressed copy: its text would be read twice."""
    seen: dict[Path, Path] = {}
    for path in paths:
        ending = next(ending for ending in ENDINGS if path.name.endswith(ending))
        twin = seen.setdefault(path.with_name(path.name.removesuffix(ending)), path)
        if twin != path:
            problem = f"found {twin.name} and {path.name}; expected one of them: the text is read"
            raise ConfigError(str(folder), [f"{problem} from every file"])
