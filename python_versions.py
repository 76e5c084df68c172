"""The versions of Python that pyproject.toml lists: those that the tests were seen to pass on.

    python python_versions.py check     an older Python is an error, a newer one gets a line
    python python_versions.py newest    the path of the newest one here that is newer than this

This file itself runs on older versions too, so that it can say that they are too old.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().with_name("pyproject.toml")


def read_tested(project: str) -> list:
    """Return the minor versions of Python 3 that are listed as classifiers, in order."""
    return sorted(map(int, re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', project)))


def check(minor: int, tested: list) -> str:
    """Return what a user of a version should know; exit if the version is too old."""
    if minor < tested[0]:
        sys.exit(f"{sys.executable}: Python 3.{tested[0]} or newer is needed, this is 3.{minor}")
    if minor in tested:
        return ""
    return f"Python 3.{minor} has not been tested; 3.{tested[0]} to 3.{tested[-1]} have"


def find_newest(minor: int, tested: list) -> str:
    """Return the path of the newest tested interpreter that is newer than a version, or nothing."""
    newer = [other for other in reversed(tested) if other > minor]
    found = (path for other in newer for path in _candidates(other) if _can_make_venv(path, other))
    return next(found, "")


def _candidates(minor: int) -> list:
    """Return where Python 3.minor may be: on PATH, and what pyenv has installed."""
    on_path = shutil.which(f"python3.{minor}")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    installed = pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}")
    return [path for path in (on_path, *map(str, sorted(installed))) if path]


def _can_make_venv(path: str, minor: int) -> bool:
    """Tell whether an interpreter starts and has venv: pyenv's commands may not, nor Debian's."""
    program = "import ensurepip, sys, venv; print(sys.version_info[1])"
    done = subprocess.run([path, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.returncode == 0 and done.stdout.strip() == str(minor).encode()


def main() -> None:
    """Answer what the Makefile asks."""
    minor, tested = sys.version_info[1], read_tested(PROJECT.read_text(encoding="utf-8"))
    if sys.argv[1:] == ["check"]:
        answer = check(minor, tested)
    elif sys.argv[1:] == ["newest"]:
        answer = find_newest(minor, tested)
    else:
        sys.exit(__doc__)
    if answer:
        print(answer)


if __name__ == "__main__":
    main()
