"""Lists the text files of a source and detects changes. Imports no torch.

Reads   names in <root_dir>/<source>/: *.chunk.*.jsonl, also compressed as .jsonl.gz or .jsonl.zst,
        *.parquet, *.arrow, and *.bin with its *.idx (Megatron). Held out are *.val.jsonl[.gz|.zst],
        *.val.parquet, *.val.arrow and *.val.bin, or, if there are none, such a file next to the
        folder: <root_dir>/<source>.val.jsonl
Reads   dataset_dict.json and state.json there, which name the files of a Hugging Face dataset
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from trainer.files import stat_readable
from trainer.json_files import parse_json
from trainer.problems import ConfigError, Problem, unreadable
from trainer.yaml_files import shorten

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = ".parquet"
ARROW = ".arrow"
MEGATRON = ".bin"
INDEX = ".idx"
"""Ending of the index of a Megatron file; only with it is a .bin one."""
ENDINGS = (*LINES, PARQUET, ARROW, MEGATRON)
"""Endings of the names of text files, which determine their format."""

HELD_OUT_FILES = "a file named like *.val.jsonl"
"""What makes text held out, for messages."""

TRAINING_SPLIT = "train"
HELD_OUT_SPLITS = ("validation", "valid", "val", "dev", "test")
"""Names of the held-out split of a Hugging Face dataset; the first that it has is used."""
_SPLIT = "|".join((TRAINING_SPLIT, *HELD_OUT_SPLITS))
SPLIT_OF_CACHED = re.compile(rf"(?:^|-)({_SPLIT})(-\d{{5}}-of-\d{{5}})?\.arrow")
"""How the cache of the library `datasets` ends the name of a split's file."""
SPLIT_ON_HUB = re.compile(rf"({_SPLIT})(-\d{{5}}-of-\d{{5}}(-[0-9a-f]{{16}})?)?\.parquet")
"""The name of a split's file on the Hugging Face hub."""

Stat = list[list[Any]]
"""Path, size in bytes and mtime in ns of each text file; if equal, the text is assumed equal."""


@dataclass(frozen=True)
class TextFiles:
    """The files of one source, each list in sorted order."""

    source: str
    chunks: list[Path]
    held_out: list[Path]

    @property
    def on_disk(self) -> list[Path]:
        """All files that are read, Megatron's indexes included."""
        return [path for text in (*self.chunks, *self.held_out) for path in with_index(text)]

    def stat(self) -> Stat:
        """Return the stat of all files, a quick check for changes. Raises ConfigError."""
        return [stat_file(path) for path in (*self.chunks, *self.held_out)]


def with_index(path: Path) -> list[Path]:
    """Return a text file and, if it is Megatron's, its index."""
    return [path, path.with_suffix(INDEX)] if path.name.endswith(MEGATRON) else [path]


def stat_file(path: Path) -> list[Any]:
    """Return path, size and mtime of a file; a Megatron file and its index count as one.

    Raises ConfigError, also for a FIFO, a socket or a device.
    """
    size, changed = 0, 0
    for part in with_index(path):
        try:
            stat = stat_readable(part)
        except OSError as error:
            raise unreadable(part, error) from None
        size, changed = size + stat.st_size, max(changed, stat.st_mtime_ns)
    return [str(path.resolve()), size, changed]


def describe_files(root: Path, paths: Iterable[Path]) -> dict[str, Any]:
    """Return the facts by which `are_alike` recognises files, without reading them.

    Of each file its name, and its target, links followed, both seen from `root`; its size in bytes;
    its mtime in ns. A file outside `root` is called by its name alone. Raises ConfigError.
    """
    real = cache(os.path.realpath)  # of folders: one for many files
    files = []
    for path in paths:
        try:
            stat, target = stat_readable(path), Path(real(path.parent), path.name)
            target = target.resolve() if target.is_symlink() else target
        except OSError as error:
            raise unreadable(path, error) from None
        name = path.relative_to(root) if path.is_relative_to(root) else path.name
        place = os.path.relpath(target, real(root))
        files.append([str(name), place, stat.st_size, stat.st_mtime_ns])
    return {"root": str(root.absolute()), "files": files}


def describe_texts(root: Path, texts: TextFiles, tokenizer: str | None) -> dict[str, Any]:
    """Return the facts of all files that shards are made of: the texts, and the tokenizer's file,
    if it has one. Raises ConfigError."""
    of_tokenizer = [] if tokenizer is None else [Path(tokenizer)]
    return describe_files(root, [*texts.on_disk, *of_tokenizer])


def are_alike(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether files are what they were, by two results of `describe_files`.

    Seen from another place, they are a copy, whose links and times may be others: then names and
    sizes decide. Raises KeyError, TypeError or ValueError for what is no such result.
    """
    if before["root"] == now["root"]:
        return bool(before["files"] == now["files"])
    sizes = ([(name, size) for name, _, size, _ in facts["files"]] for facts in (before, now))
    return next(sizes) == next(sizes)


def list_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source, without checking them; there may be none.

    Raises ConfigError if the description of a Hugging Face dataset cannot be read.
    """
    folder = root / source
    held_out = _matching(folder, "*.val")
    splits = _read_splits(folder)
    for path in sorted(folder.glob(f"*{PARQUET}")):
        named = SPLIT_ON_HUB.fullmatch(path.name)
        splits.setdefault(named[1] if named else TRAINING_SPLIT, []).append(path)
    chunks = [path for ending in LINES for path in folder.glob(f"*.chunk.*{ending}")]
    chunks += [*_megatron(folder, "*"), *splits[TRAINING_SPLIT]]
    if not held_out:
        held_out = next((splits[name] for name in HELD_OUT_SPLITS if name in splits), [])
    if not held_out:
        held_out = _matching(root, f"{source}.val")
    return TextFiles(source, sorted(set(chunks) - set(held_out)), held_out)


def _matching(folder: Path, stem: str) -> list[Path]:
    """Return the files of any format whose name without its ending matches `stem`."""
    plain = [ending for ending in ENDINGS if ending != MEGATRON]
    found = [path for ending in plain for path in folder.glob(f"{stem}{ending}")]
    return sorted([*found, *_megatron(folder, stem)])


def _megatron(folder: Path, stem: str) -> list[Path]:
    """Return the Megatron files: those with an index, and not every .bin file."""
    return [path.with_suffix(MEGATRON) for path in folder.glob(f"{stem}{INDEX}")]


def _read_splits(folder: Path) -> dict[str, list[Path]]:
    """Return split -> Arrow files of a folder; there is always a training split.

    What `save_to_disk` of the library `datasets` wrote is known from its JSON files: the folder may
    contain files of an earlier dataset too. Otherwise the names tell, as in the library's cache.
    """
    if (folder / "dataset_dict.json").exists():
        names = _read_json(folder / "dataset_dict.json", "splits")
        splits = {name: _saved_files(folder / name) for name in names}
        if TRAINING_SPLIT not in splits:
            problem = f"found the splits {', '.join(splits) or 'none'}; expected '{TRAINING_SPLIT}'"
            raise ConfigError(str(folder), [problem])
        return splits
    if (folder / "state.json").exists():
        return {TRAINING_SPLIT: _saved_files(folder)}
    splits = {TRAINING_SPLIT: []}
    for path in sorted(folder.glob(f"*{ARROW}")):
        if path.name.startswith("cache-"):  # what the library computed from the dataset
            continue
        found = SPLIT_OF_CACHED.search(path.name)
        splits.setdefault(found[1] if found else TRAINING_SPLIT, []).append(path)
    return splits


def _saved_files(folder: Path) -> list[Path]:
    """Return the files of a dataset that `save_to_disk` wrote to a folder."""
    path = folder / "state.json"
    names = _read_json(path, "_data_files")
    for name in names:
        if not name.endswith(ARROW):
            problem = Problem(("_data_files",), f"found {shorten(name)!r}; expected *{ARROW} files")
            raise ConfigError(str(path), [problem])
    return [folder / name for name in names]


def _read_json(path: Path, key: str) -> list[str]:
    """Return a list of names in one of the JSON files of a dataset. Raises ConfigError."""
    try:
        stat_readable(path)
        values = parse_json(path.read_bytes())[key]
        names = [item["filename"] if isinstance(item, dict) else item for item in list(values)]
        if not all(isinstance(name, str) and "\0" not in name for name in names):
            raise ValueError("not the name of a file")
        return names
    except OSError as error:
        raise unreadable(path, error) from None
    except (ValueError, KeyError, TypeError):
        expected = f"expected the '{key}' that `save_to_disk` of datasets writes"
        raise ConfigError(str(path), [f"cannot be read: {expected}"]) from None


def find_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source.

    Raises ConfigError if there are none to train on, or if one of them is missing.
    """
    try:
        return _find(root, source)
    except OSError as error:
        raise unreadable(root / source, error) from None


def _find(root: Path, source: str) -> TextFiles:
    folder = root / source
    others = [".jsonl.gz", ".jsonl.zst", PARQUET, ARROW, f"{MEGATRON} with {INDEX}"]
    wanted = f"files named like {source}.chunk.00.jsonl (or {', '.join(others)})"
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
    files.stat()  # each of them is there
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
