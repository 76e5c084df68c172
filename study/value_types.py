"""Types of values in study files: names, paths, commands and lists."""

import shlex
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from study.project import of_project
from trainer.config import expand_paths
from trainer.paths import LONGEST_NAME, FilePath
from trainer.yaml_files import shorten

# Names become folders of the results, so they contain no special characters of paths or shells.
Name = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=LONGEST_NAME)
]


def as_list(value: Any) -> Any:
    """Return a list, also of one value."""
    return value if isinstance(value, list | tuple) else [value]


def as_names(value: Any) -> Any:
    """Return a list of names; YAML reads a name such as 125 as a number."""
    return [str(item) if isinstance(item, int) else item for item in as_list(value)]


def brace_in(path: str) -> str | None:
    """Return what is wrong with a path that Snakemake would read as a pattern, or None."""
    if "{" not in path and "}" not in path:
        return None
    found = shorten(repr(path))
    return f"found {found}; expected no braces, which are wildcards in Snakemake's file names"


def _without_braces(path: str) -> str:
    problem = brace_in(path)
    if problem is not None:
        raise ValueError(problem)
    return path


WorkflowPath = Annotated[FilePath, AfterValidator(_without_braces)]
"""A path of which Snakemake is told."""

ProjectPath = Annotated[WorkflowPath, AfterValidator(of_project)]
"""Such a path, also of a file that the project comes with."""


def split_words(text: str) -> list[str]:
    """Return the words of a command. Raises ValueError if it has none, or an open quote."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"found {shorten(repr(text))}: {error}") from None
    if not words:
        raise ValueError(f"found {text!r}; expected a command")
    return words


def _check_words(text: str) -> str:
    split_words(text)
    return text


Command = Annotated[str, AfterValidator(_check_words)]
"""A command; words with white space are in quotes, as in a shell."""

RunValues = Annotated[dict[str, Any], AfterValidator(expand_paths)]

Names = Annotated[list[Name], BeforeValidator(as_names), Field(min_length=1)]
