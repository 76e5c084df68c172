"""The version of a clone of a git repository: its commit, and a digest of what was changed since.

Only files that git tracks count, wherever in the repository: logs, checkpoints and other new files
are not the trainer's source.
"""

import hashlib
import os
import subprocess
from pathlib import Path

from trainer.git import ask_git

PATIENCE_S = 60
"""Time for a command that finds a version, s."""

DIGEST = 12
"""Hex digits of the digest of changed files."""


def clone_version(folder: str | Path, results: str | Path | None = None) -> str | None:
    """Return the commit of the clone that a folder is in: `COMMIT`, or `COMMIT-dirty-DIGEST` if
    tracked files differ from it; None if the folder is in no clone, or git fails.

    `results`: a folder of files that a study writes; they do not count, even if they are tracked.
    """
    try:
        commit = os.fsdecode(_git(folder, "rev-parse", "--verify", "HEAD"))
        top = Path(os.fsdecode(_git(folder, "rev-parse", "--show-toplevel")))
        changed = _changed_files(top, None if results is None else Path(results).resolve())
        return f"{commit}-dirty-{_digest(top, changed)}" if changed else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _changed_files(top: Path, results: Path | None) -> list[Path]:
    """Return the paths in a clone of tracked files, and submodules, that differ from the commit."""
    names = _git(
        *(top, "diff", "--name-only", "-z", "--no-relative", "--no-renames", "--no-ext-diff"),
        *("--ignore-submodules=untracked", "HEAD"),
    )
    paths = [Path(os.fsdecode(name)) for name in sorted(names.split(b"\0")) if name]
    if results is None or top.is_relative_to(results):
        return paths
    return [path for path in paths if not (top / path).is_relative_to(results)]


def _digest(top: Path, paths: list[Path]) -> str:
    """Return a digest of the names and contents of files; one that was deleted has no content."""
    found = hashlib.sha256()
    for path in paths:
        found.update(os.fsencode(path) + b"\0" + hashlib.sha256(_content(top / path)).digest())
    return found.hexdigest()[:DIGEST]


def _content(path: Path) -> bytes:
    """Return the content of a file, the target of a link, or the version of a submodule."""
    if path.is_symlink():
        return os.fsencode(path.readlink())
    if path.is_dir():
        return (clone_version(path) or "").encode() if (path / ".git").exists() else b""
    return path.read_bytes() if path.exists() else b""


def _git(folder: str | Path, *words: str) -> bytes:
    return ask_git(folder, *words, timeout_s=PATIENCE_S)
