"""The packages that commands need: one that is missing is reported in one line.

Imports nothing but the standard library, and no syntax here is newer than Python 3.6.
"""

import importlib.util
import sys

REMEDY = "run `make setup`, then `source .venv/bin/activate`"


def check(*packages: str) -> None:
    """Exit with a message if a package is not installed, or if this Python is too old."""
    if sys.version_info < (3, 11):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"{sys.executable}: Python 3.11 or newer is needed, this is {found}; {REMEDY}")
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(describe(missing))


def describe(missing: list) -> str:
    """Return what to do about packages that are not installed."""
    return f"{sys.executable}: {', '.join(missing)}: not installed for this Python; {REMEDY}"
