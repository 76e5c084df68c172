"""What git says of a folder, whatever repository the environment names."""

import os
import subprocess
from pathlib import Path

OF_ANOTHER = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"}
"""Variables that git prefers to the folder. It sets them for hooks and for `git rebase --exec`."""


def ask_git(folder: str | Path, *words: str, timeout_s: float) -> bytes:
    """Return what a command of git prints, run in a folder.

    Raises OSError or subprocess.SubprocessError if git fails, or is not installed.
    """
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        env={name: value for name, value in os.environ.items() if name not in OF_ANOTHER},
        capture_output=True,
        check=True,
        timeout=timeout_s,
    )
    return done.stdout.rstrip(b"\n")
