"""Write files, and convert tables from and to CSV."""

import csv
import io
import math
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from trainer.files import write_atomically
from trainer.problems import ConfigError
from trainer.yaml_files import shorten

LARGEST_TABLE = 64 * 2**20
"""Most bytes of a table in memory."""


def write_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically; create its folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def to_csv(rows: Sequence[Any], row_type: type[Any]) -> str:
    """Return instances of a dataclass as CSV, one column per field; None is an empty cell."""
    text = io.StringIO()
    names = [field.name for field in fields(row_type)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row)
        writer.writerow({k: f"{v:.7g}" if isinstance(v, float) else v for k, v in values.items()})
    return text.getvalue()


def parse_row(row_type: Any, line: dict[str, str]) -> Any:
    """Return a dataclass from a line of CSV, with each field's type; None for an empty cell.

    Raises KeyError if a column without a default is missing, ValueError for a wrong value, with
    the column's name.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(row_type)
    for field in fields(row_type):
        if field.name not in line and field.default is not MISSING:
            continue
        try:
            values[field.name] = _parse(line[field.name], hints[field.name])
        except (TypeError, ValueError):
            found = shorten(repr(line[field.name]))
            raise ValueError(f"{field.name}: found {found}; expected {_kind(field.type)}") from None
    return row_type(**values)


def _kind(annotation: Any) -> str:
    """Return what to write in a cell of a type, for messages."""
    name = str(getattr(annotation, "__name__", annotation))
    return {"int": "a whole number", "float": "a number", "bool": "True or False"}.get(name, name)


def read_csv(path: str | Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of a CSV, and each row with its line number; lines with `#` are comments.

    Raises ConfigError if the file cannot be read or is too large, or a row has other columns.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_TABLE + 1)
        if len(content) > LARGEST_TABLE:
            raise ValueError(f"more than {LARGEST_TABLE // 2**20} MiB")
        lines = content.decode("utf-8-sig").splitlines(keepends=True)
        reader = csv.DictReader("" if line.startswith("#") else line for line in lines)
        columns, rows = list(reader.fieldnames or []), []
        for row in reader:
            if None in row or None in row.values():
                found = sum(value is not None for key, value in row.items() if key is not None)
                found += len(row.get(None, []))
                raise ValueError(f"line {reader.line_num}: {found} cells, {len(columns)} columns")
            rows.append((reader.line_num, row))
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else reason
        raise ConfigError(str(path), [f"cannot be read: {reason}"]) from None
    return columns, rows


def read_rows(
    path: str | Path, row_type: Any, table: str, remedy: str, required: Sequence[str] = ()
) -> list[Any]:
    """Return the rows of a table of ours as instances of a dataclass.

    `table` names the kind of table in messages, with the `remedy`. Raises ConfigError.
    """
    columns, rows = read_csv(path)
    missing = [name for name in required if name not in columns]
    if missing:
        problem = f"not a {table}: no column '{missing[0]}'; {remedy}"
        raise ConfigError(str(path), [problem])
    parsed = []
    for number, row in rows:
        try:
            parsed.append(parse_row(row_type, row))
        except KeyError as error:
            raise ConfigError(str(path), [f"not a {table}: no column {error}; {remedy}"]) from None
        except (TypeError, ValueError) as error:
            problem = f"line {number}: not a row of a {table}: {error}; {remedy}"
            raise ConfigError(str(path), [problem]) from None
    return parsed


def _parse(text: str, hint: Any) -> Any:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if text == "" and type(None) in kinds:
        return None
    words = typing.get_args(kinds[0]) if typing.get_origin(kinds[0]) is typing.Literal else None
    if kinds[0] is bool:
        words = ("True", "False")
    if words is not None and text not in words:
        raise ValueError
    value = text == "True" if kinds[0] is bool else text if words else kinds[0](text)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value
