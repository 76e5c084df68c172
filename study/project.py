"""The folder of this project, which need not be the one that a study is run from.

A study's paths are relative to the working directory. The files that the project comes with are
also found from elsewhere, so that a study may name `config/models.yaml` in any folder.
"""

import os
from pathlib import Path

from trainer.problems import ConfigError

PROJECT = Path(__file__).resolve().parents[1]

SNAKEFILE = PROJECT / "Snakefile"

PACKAGES = ("study", "trainer")


def of_project(path: str) -> str:
    """Return the path of the project's file of that name if there is none in the working
    directory, otherwise the path unchanged."""
    ours = PROJECT / path
    # Unlike those of pathlib, these are false for a path that no file can have.
    return str(ours) if not os.path.exists(path) and os.path.isfile(ours) else path  # noqa: PTH110, PTH113


def share_packages() -> None:
    """Have the commands of jobs find the project's packages from any working directory.

    Raises ConfigError if they would import one of the same name from the working directory.
    """
    for name in PACKAGES:
        for other in (Path(name, "__init__.py"), Path(f"{name}.py")):
            if other.exists() and not other.resolve().is_relative_to(PROJECT):
                raise ConfigError(
                    str(other),
                    [
                        f"jobs started here would import it instead of {PROJECT / name}; "
                        "rename it, or run the study in another folder (--directory)"
                    ],
                )
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if str(PROJECT) not in others:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT), *others])
