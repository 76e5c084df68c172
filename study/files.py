"""Open text as people save it, write files, and convert tables from and to CSV."""

import codecs
import csv
import errno
import functools
import io
import math
import operator
import os
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TextIO

from trainer.files import write_atomically
from trainer.problems import unreadable
from trainer.yaml_files import shorten


def open_text(path: str | Path, *, errors: str = "strict", newline: str | None = None) -> TextIO:
    """Open a UTF-8 text file, or a UTF-16 one that begins with a byte order mark.

    `errors` and `newline` are those of `open`. Raises ConfigError if the file cannot be opened.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115  (the caller closes it)
        start = file.peek(2)[:2]  # a pipe can be read only once
    except (OSError, ValueError) as error:  # a path with a NUL is a ValueError
        raise unreadable(path, error) from None
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if start in marks else "utf-8-sig"
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)


def append_lines(path: Path, lines: str) -> None:
    """Append complete lines to a file; an incomplete last one, of a kill or a full disk, is dropped
    before: it would swallow the next."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(lines.encode())


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically; create its folder if necessary.

    Raises OSError, also for a folder, or a device such as /dev/null, which root would replace.
    """
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "not a regular file"
        expected = "expected a file, or a path that is free"
        raise FileExistsError(errno.EEXIST, f"{found}; {expected}", str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        told = "a file; expected a folder"
        raise NotADirectoryError(errno.ENOTDIR, told, str(error.filename)) from None
    write_atomically(path, content)


def to_csv(rows: Sequence[Any], row_type: type[Any]) -> str:
    """Return instances of a dataclass as CSV, one column per field; None is an empty cell."""
    text = io.StringIO()
    names = [field.name for field in fields(row_type)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    values_of = operator.attrgetter(*names)
    for row in rows:
        writer.writerow([f"{v:.7g}" if isinstance(v, float) else v for v in values_of(row)])
    return text.getvalue()


def write_csv(path: Path, rows: Sequence[Any], row_type: type[Any]) -> None:
    """Write instances of a dataclass as a CSV file."""
    write_file(path, to_csv(rows, row_type))


def write_csv_and_markdown(
    csv_path: Path, rows: Sequence[Any], row_type: type[Any], markdown: str
) -> None:
    """Write instances of a dataclass as a CSV file, and next to it the text for people."""
    write_csv(csv_path, rows, row_type)
    write_file(csv_path.with_suffix(".md"), markdown)


def required_columns(row_type: Any) -> list[str]:
    """Return the fields of a dataclass that have no default."""
    return [field.name for field in fields(row_type) if field.default is MISSING]


def parse_row(row_type: Any, line: dict[str, str]) -> Any:
    """Return a dataclass from a line of CSV that has its required columns, with each field's type;
    None for an empty cell.

    Raises ValueError with the column, what was found and what was expected.
    """
    values: dict[str, Any] = {}
    for name, hint in _hints(row_type).items():
        if name not in line:
            continue
        try:
            values[name] = _parse(line[name], hint)
        except ValueError:
            found = shorten(line[name])
            raise ValueError(f"{name}: '{found}'; expected {_expected(hint)}") from None
    return row_type(**values)


@functools.cache
def _hints(row_type: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(row_type)
    return {field.name: hints[field.name] for field in fields(row_type)}


def _parse(text: str, hint: Any) -> Any:
    kinds = _kinds(hint)
    if text == "" and type(None) in kinds:
        return None
    known = _known(kinds[0])
    if known is not None and text not in known:
        raise ValueError
    if kinds[0] is bool:
        return text == "True"
    value = text if known is not None else kinds[0](text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value


def _expected(hint: Any) -> str:
    kind = _kinds(hint)[0]
    known = _known(kind)
    return " or ".join(known) if known else {int: "a whole number", float: "a number"}[kind]


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type; None is never the first."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _known(kind: Any) -> tuple[str, ...] | None:
    """Return the only values that a cell can have; None if it can have any of its type."""
    if kind is bool:
        return ("True", "False")
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
