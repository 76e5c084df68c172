"""Write files, and convert tables from and to CSV."""

import csv
import io
import types
import typing
from collections.abc import Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from trainer.files import write_atomically


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

    Raises KeyError if a column without a default is missing, ValueError for a wrong value.
    """
    values: dict[str, Any] = {}
    hints = typing.get_type_hints(row_type)
    for field in fields(row_type):
        if field.name not in line and field.default is not MISSING:
            continue
        values[field.name] = _parse(line[field.name], hints[field.name])
    return row_type(**values)


def _parse(text: str, hint: Any) -> Any:
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kinds = typing.get_args(hint) if is_union else (hint,)
    if text == "" and type(None) in kinds:
        return None
    if kinds[0] is bool:
        return text == "True"
    return text if typing.get_origin(kinds[0]) is typing.Literal else kinds[0](text)
