"""A copy of the project, in which one process of the tests runs Snakemake.

Snakemake keeps its metadata and locks in the folder that it runs in: two processes that share one
would see each other's, and a test that deletes the metadata would delete the user's.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def _not_needed(folder: str, names: list[str]) -> set[str]:
    """Skip environments, caches and what the user's own studies wrote."""
    kept = {"published"} if Path(folder) == PROJECT / "results" else set(names)
    return {name for name in names if name not in kept or name.startswith(".") or name == "wheels"}


def _copy_project() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="checkout-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return shutil.copytree(PROJECT, folder / "project", ignore=_not_needed)


ROOT = _copy_project()
