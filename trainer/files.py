"""Atomic file writes, and folders that settings name. Imports no torch."""

import contextlib
import os
from pathlib import Path

from trainer.problems import ConfigError, Problem


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file atomically: readers see the old content or the new one.

    If that fails, on a full disk for example, nothing of it stays; the OSError names `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


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
