"""Atomic and durable file writes, and folders that settings name. Imports no torch."""

import contextlib
import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from trainer.problems import ConfigError, Problem

SUPERSEDED = "superseded"
"""Folder, within that of a run, of the files of earlier ones."""

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, quota exceeded, file too large: what a write meets on a full disk."""


NOT_FILES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
"""What is not read where a file is expected: it may be waited for, or have no end."""


def stat_readable(path: str | Path) -> os.stat_result:
    """Return the stat of a file that is about to be read, links followed.

    Raises OSError if it is missing, or one of `NOT_FILES`.
    """
    found = Path(path).stat()
    kind = NOT_FILES.get(stat.S_IFMT(found.st_mode))
    if kind is not None:
        raise OSError(errno.EINVAL, f"found {kind}; expected a file", str(path))
    return found


def read_end(path: Path, count: int) -> bytes:
    """Return at most `count` bytes, the last of a file."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - count))
        return file.read()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: readers see the old content or the new one, also after a power
    loss.

    If it fails, on a full disk for example, it leaves nothing behind; an OSError names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        replace_durably(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


class FileGoneError(FileNotFoundError):
    """A file of a run, deleted or moved during the run."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ENOENT, "deleted or moved during the run", str(path))


def replace_durably(temporary: Path, target: Path) -> None:
    """Rename a finished file or folder to its final name, once its content is on disk.

    Without the sync, a power loss could leave the new name with the content missing.
    """
    if temporary.is_dir():
        for path in temporary.rglob("*"):
            _sync(path)
    _sync(temporary)
    temporary.replace(target)
    _sync(target.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what killed processes have left of a file in `write_atomically`."""
    for temporary in path.parent.glob(f".{path.name}.[0-9]*"):
        temporary.unlink(missing_ok=True)


def move_aside(paths: Sequence[Path]) -> Path:
    """Move what is in one folder to `superseded/<n>` in it, n = 1, 2, ...; return that folder."""
    superseded = paths[0].parent / SUPERSEDED
    numbers = (int(path.name) for path in superseded.glob("*") if path.name.isdecimal())
    target = superseded / str(1 + max(numbers, default=0))
    target.mkdir(parents=True)
    for path in paths:
        path.replace(target / path.name)
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path, key: str) -> None:
    """Create the folder that a key names. Raises ConfigError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else "not permitted"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        expected = "a writable folder, or a path that does not exist yet"
        message = f"not a writable folder: {reason}; expected {expected}"
        raise ConfigError(str(folder), [Problem(tuple(key.split(".")), message)])
