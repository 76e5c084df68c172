"""Read CSV as people save it: with an editor, a spreadsheet or pandas.

It may have a byte order mark or be UTF-16, and have any line ends, blank lines, comment lines (#),
quoted newlines, `;` or tabs in place of commas, and numbers such as 600,000. What is ambiguous is
refused with its line and cell.
"""

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from study.files import open_text, parse_row, required_columns
from trainer.problems import ConfigError, Problem, unreadable
from trainer.yaml_files import shorten

Row = TypeVar("Row")

DELIMITERS = (",", ";", "\t")

PLAIN = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

GROUPED = re.compile(r"[1-9]\d{0,2}(,\d{3})+(\.\d+)?", re.ASCII)
"""Thousands separated by commas, as in 600,000 and 1,250.5."""

GROUPED_BY_POINTS = re.compile(r"[1-9]\d{0,2}(\.\d{3})+(,\d+)?", re.ASCII)
"""The same where the decimal separator is a comma, as in 600.000 and 1.250,5."""

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)

ONE_GROUP = re.compile(r"[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
"""600,000 or 600.000, which in a file with `;` is 600 to some and 600000 to others."""

LARGEST = 2**63 - 1

LONGEST = 500
"""Characters of a number; the longest float has 309 digits, and 102 commas."""


@dataclass(frozen=True)
class CsvRow:
    """A row of a CSV file. Its problems name the file, the line and the column."""

    source: str
    """Path of the file."""
    line: int
    """The line of the file on which it begins, from 1."""
    cells: dict[str, str]
    """Column -> cell, verbatim; empty if the row is too short."""
    delimiter: str
    is_short: bool
    """Whether it has fewer cells than the header: empty ones left out, or a file cut off in it."""

    def text(self, name: str) -> str:
        """Return a cell without the white space around it; empty if there is no such column."""
        return " ".join(self.cells.get(name, "").split())

    def number(self, name: str) -> float:
        """Return a cell as a finite number above 0. Raises ConfigError."""
        return self._checked(name, "a number above 0")

    def whole(self, name: str) -> int:
        """Return a cell as a whole number above 0. Raises ConfigError."""
        expected = "a whole number above 0"
        value = self._checked(name, expected)
        if value != int(value) or value > LARGEST:
            raise self.problem(name, f"'{shorten(self.text(name))}'; expected {expected}")
        return int(value)

    def problem(self, name: str, message: str) -> ConfigError:
        """Return an error about a cell."""
        return ConfigError(self.source, [Problem((name,), message, line=self.line)])

    def _checked(self, name: str, expected: str) -> float:
        text = self.text(name)
        if self.delimiter == ";" and ONE_GROUP.fullmatch(text):
            whole, decimal = (re.sub("[.,]", mark, text) for mark in ("", "."))
            either = f"{whole} or {float(decimal):g}"
            raise self.problem(name, f"'{text}' may mean {either}; write one of these")
        value = parse_number(text, self.delimiter)
        if value is None or not 0 < value < float("inf"):
            raise self.problem(name, f"'{shorten(text)}'; expected {expected}")
        return value


@dataclass(frozen=True)
class CsvTable:
    """A CSV file: its columns, and its rows without the blank ones."""

    columns: tuple[str, ...]
    rows: tuple[CsvRow, ...]


def parse_number(text: str, delimiter: str = ",") -> float | None:
    """Return a cell's number; None if it is not one. It may be infinite.

    A decimal comma is known only where the cells are separated by `;`.
    """
    if len(text) > LONGEST:
        return None
    if PLAIN.fullmatch(text):
        return float(text)
    if GROUPED.fullmatch(text):
        return float(text.replace(",", ""))
    if delimiter == ";" and GROUPED_BY_POINTS.fullmatch(text):
        return float(text.replace(".", "").replace(",", "."))
    if delimiter == ";" and DECIMAL_COMMA.fullmatch(text):
        return float(text.replace(",", "."))
    return None


def read_csv(path: str | Path) -> CsvTable:
    """Return a CSV file with a header line; one without any has no columns.

    Raises ConfigError with the file, line and cell.
    """
    reader = _Records(path)
    with reader.file:
        try:
            records = iter(reader)
            header = next(records, (1, []))
            columns = _columns(path, header)
            rows = tuple(_row(path, columns, record, reader.delimiter) for record in records)
            return CsvTable(tuple(filter(None, columns)), rows)
        except UnicodeError as error:
            problem = Problem((), f"not UTF-8: {error}", line=_undecodable_line(path))
        except csv.Error as error:
            problem = Problem((), f"not valid CSV: {error}", line=reader.start)
        except OSError as error:
            raise unreadable(path, error) from None
    raise ConfigError(str(path), [problem])


def read_as(path: str | Path, row_type: type[Row], kind: str, command: str) -> list[Row]:
    """Return a CSV file's rows as instances of a dataclass; see `study.files.parse_row`.

    Raises ConfigError, which says that the file is not `kind`, such as "a throughput table", and
    that `command` recreates it.
    """
    # Snakemake sees no damage.
    again = f"delete it, for Snakemake or `python -m study {command}` to make it again"
    table = read_csv(path)
    missing = [name for name in required_columns(row_type) if name not in table.columns]
    if missing:
        raise ConfigError(str(path), [f"not {kind}: no column '{missing[0]}'; {again}"])
    rows = []
    for row in table.rows:
        try:
            if row.is_short:
                raise ValueError(f"fewer than {len(table.columns)} cells")
            rows.append(parse_row(row_type, row.cells))
        except ValueError as error:
            problem = Problem((), f"not {kind}: {error}; {again}", line=row.line)
            raise ConfigError(str(path), [problem]) from None
    return rows


def _undecodable_line(path: str | Path) -> int | None:
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return None


class _Records:
    """Yields (first line, cells) of the records of a CSV file, without blank ones and comments."""

    def __init__(self, path: str | Path) -> None:
        self.file = open_text(path, newline="")
        self.start = 1
        """First line of the current record, from 1."""
        self.delimiter = ","
        self._between = True

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        lines = self._lines()
        first = next(lines, "")
        unquoted = re.sub(r'"[^"]*"', "", first)
        self.delimiter = max(DELIMITERS, key=unquoted.count)
        given = itertools.chain([first], lines) if first else lines
        for cells in csv.reader(given, delimiter=self.delimiter, strict=True):
            if any(cell.strip() for cell in cells):
                yield self.start, cells
            self._between = True

    def _lines(self) -> Iterator[str]:
        """Yield the lines; blank ones and comments only inside quotes."""
        for number, line in enumerate(self.file, start=1):
            if self._between:
                if not line.strip() or line.lstrip().startswith("#"):
                    continue
                self.start, self._between = number, False
            yield line


def _columns(path: str | Path, header: tuple[int, Sequence[str]]) -> list[str]:
    line, cells = header
    columns = [cell.strip() for cell in cells]
    for name in columns:
        if name and columns.count(name) > 1:
            problem = Problem((), f"column '{name}' appears twice", line=line)
            raise ConfigError(str(path), [problem])
    return columns


def _row(
    path: str | Path, columns: Sequence[str], record: tuple[int, list[str]], delimiter: str
) -> CsvRow:
    line, cells = record
    is_short = len(cells) < len(columns)
    cells += [""] * (len(columns) - len(cells))
    for index, cell in enumerate(cells):
        if cell.strip() and (index >= len(columns) or not columns[index]):
            message = f"cell {index + 1}, '{shorten(cell.strip())}', has no column; expected "
            message += f"{sum(map(bool, columns))} cells, and quotes around one with '{delimiter}'"
            raise ConfigError(str(path), [Problem((), message, line=line)])
    named = {name: cell for name, cell in zip(columns, cells, strict=False) if name}
    return CsvRow(str(path), line, named, delimiter, is_short)
