"""Paths in settings: one rule for `~` and environment variables, under every key.

A leading `~`, `$NAME`, `${NAME}` and OmegaConf's `${oc.env:NAME}` are replaced when the settings
are read. What cannot be replaced is refused; it would become a folder of that name.
"""

import os
import re
import typing
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo

REFERENCE = re.compile(
    r"\$(?:(?P<plain>[A-Za-z_][A-Za-z0-9_]*)|\{(?:oc\.env:)?(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})"
)
"""An environment variable in a path."""

CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

LONGEST_NAME = 255
"""Most bytes of the name of a file or folder."""

FORMS = "~, $NAME, ${NAME} or ${oc.env:NAME}"


def check_path(text: str) -> str:
    """Return a path unchanged. Raises ValueError if it contains anything else after a `$` than an
    environment variable, a character that no path should have, or a name that no file can have."""
    if "$" in REFERENCE.sub("", text):
        raise ValueError(f"found {text!r}, with a '$' that is none of {FORMS}")
    if CONTROL.search(text):
        raise ValueError(f"found {text!r}; expected a path without control characters")
    longest = max(len(os.fsencode(name)) for name in text.split("/"))
    if longest > LONGEST_NAME:
        expected = f"expected {LONGEST_NAME} at most"
        raise ValueError(f"found a path with a name of {longest:,} bytes; {expected}")
    return text


def expand_path(text: str) -> str:
    """Return a path with `~` and variables replaced by their values.

    Raises ValueError if a variable is not set, and like `check_path`.
    """
    expanded = REFERENCE.sub(_value_of, check_path(text))
    if not text.startswith("~"):
        return expanded
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError:
        user = expanded.partition("/")[0]
        raise ValueError(f"found {text!r}; '{user}' has no home folder here") from None


def _value_of(reference: re.Match[str]) -> str:
    name = reference["plain"] or reference["braced"]
    value = os.environ.get(name)
    if not value:
        raise ValueError(f"found {reference[0]!r}, but the variable {name} is not set")
    return value


def in_shell(text: str) -> str:
    """Return a path as it is written between double quotes in a shell, which replaces variables
    where the job runs, and ends the job if one is not set."""
    text = re.sub(r"^~(?=/|$)", "${HOME}", text)
    text = re.sub(r'[\\"`]', r"\\\g<0>", text)
    return REFERENCE.sub(lambda found: f"${{{found['plain'] or found['braced']}:?}}", text)


EXPANDED = AfterValidator(expand_path)

FilePath = Annotated[str, Field(min_length=1), EXPANDED]
"""A path, replaced as `expand_path` says."""

JobPath = Annotated[str, Field(min_length=1), AfterValidator(check_path)]
"""A path whose variables are those of a job, see `in_shell`."""


def is_path(field: FieldInfo) -> bool:
    """Say whether a setting is a path that is expanded."""
    parts = (field.annotation, *typing.get_args(field.annotation))
    return EXPANDED in field.metadata or any(
        EXPANDED in getattr(part, "__metadata__", ()) for part in parts
    )
