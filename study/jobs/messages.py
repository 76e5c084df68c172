"""What Snakemake's user is told while jobs are submitted and run."""

import sys
from pathlib import Path


def say(message: str) -> None:
    """Print a message on standard error, at once."""
    print(message, file=sys.stderr, flush=True)


def shorten(path: str | Path) -> str:
    """Return a path as the user probably wrote it: within the working directory, relative to it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here) if Path(path).is_relative_to(here) else path)
