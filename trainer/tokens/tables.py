"""Reads documents from the rows of Parquet and Arrow files. Imports no torch.

The document is in a column `text` or `content`; in a file with neither, it is a list of token ids
in a column such as `input_ids`. An Arrow file has the streaming format, as the library `datasets`
writes it, or the file format (Feather V2). It is memory-mapped; of a Parquet file, one row group is
in memory.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from trainer.files import read_end
from trainer.problems import ConfigError, unreadable
from trainer.tokens.piece import Document, Piece, PreTokenised
from trainer.tokens.text_files import ARROW

TEXT_KEYS = ("text", "content")
TOKEN_KEYS = ("input_ids", "token_ids", "tokens", "ids")
"""Columns of token ids, as tokenising scripts name them. A column of text is preferred."""
BATCH_ROWS = 1000
"""Rows decoded at a time."""

WANTED = (
    "expected the document's text, a string, in a column 'text' or 'content', or its token ids, a "
    f"list of integers, in one of {', '.join(TOKEN_KEYS)}"
)
FILE_MAGIC = b"ARROW1"
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
"""Last bytes of an Arrow stream that is complete."""


@dataclass(frozen=True)
class _Group:
    """Rows that are decoded together: a row group, or a record batch."""

    rows: int
    bytes: int


class _Parquet:
    """A Parquet file."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.schema = library.schema_arrow

    @cached_property
    def groups(self) -> list[_Group]:
        """The row groups."""
        found = (self._library.metadata.row_group(n) for n in range(self._library.num_row_groups))
        return [_Group(group.num_rows, group.total_byte_size) for group in found]

    def read(self, wanted: Iterable[int], column: str) -> Iterator[tuple[int, Any]]:
        """Yield (group, part of its column) for groups."""
        for group in wanted:
            for batch in self._library.iter_batches(
                batch_size=BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False
            ):
                yield group, batch.column(0)


class _Arrow:
    """A memory-mapped Arrow file in either format."""

    def __init__(self, path: Path, file: Any) -> None:
        from pyarrow import ipc

        self._open, self._file = ipc.open_stream, file
        if file.read(len(FILE_MAGIC)) == FILE_MAGIC:
            self._open = ipc.open_file
        elif read_end(path, len(STREAM_END)) != STREAM_END:
            raise OSError("not an Arrow file, or it ends before the end of the stream")
        self.schema = self._reader().schema

    @cached_property
    def groups(self) -> list[_Group]:
        """The record batches."""
        return [_Group(batch.num_rows, batch.nbytes) for batch in self._batches()]

    def read(self, wanted: Iterable[int], column: str) -> Iterator[tuple[int, Any]]:
        """Yield (group, part of its column) for groups, in ascending order."""
        chosen = set(wanted)
        number = self.schema.get_field_index(column)
        for group, batch in enumerate(
            itertools.islice(self._batches(), max(chosen, default=-1) + 1)
        ):
            if group in chosen:
                batch.validate(full=True)  # damaged offsets would point anywhere
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield group, batch.column(number).slice(start, BATCH_ROWS)

    def _batches(self) -> Iterator[Any]:
        """Yield the record batches: views of the mapped file, so that skipping one is cheap."""
        reader = self._reader()
        if hasattr(reader, "num_record_batches"):
            return (reader.get_batch(index) for index in range(reader.num_record_batches))
        return iter(reader)

    def _reader(self) -> Any:
        self._file.seek(0)
        return self._open(self._file)


@contextlib.contextmanager
def _open_table(path: Path) -> Iterator[Any]:
    """Open a file of rows. Raises ConfigError, also for a damaged file while it is read."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(str(path), ["reading it needs: pip install pyarrow"]) from None
    try:
        if path.name.endswith(ARROW):
            with pyarrow.memory_map(str(path)) as file:
                yield _Arrow(path, file)
        else:
            with parquet.ParquetFile(path, pre_buffer=False) as file:
                yield _Parquet(file)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise unreadable(path, error) from None


def row_borders(path: Path, piece_bytes: int) -> list[int]:
    """Return first rows of groups, about `piece_bytes` apart, and the number of rows."""
    with _open_table(path) as table:
        groups = table.groups
    borders, row, size = [0], 0, 0
    for group in groups:
        if size >= piece_bytes:
            borders.append(row)
            size = 0
        row, size = row + group.rows, size + group.bytes
    return [*borders, row] if row else []


def read_rows(piece: Piece) -> Iterator[tuple[Document, int]]:
    """Yield the documents of a piece, each with the bytes on disk that were read for it.

    Raises ConfigError that names the row.
    """
    path = piece.path
    with _open_table(path) as table:
        column, is_text = _find_column(path, table.schema)
        firsts = list(itertools.accumulate((group.rows for group in table.groups), initial=0))
        chosen = [
            group
            for group, first in enumerate(firsts[:-1])
            if first >= piece.start and (piece.stop is None or first < piece.stop)
        ]
        size, rows, number, current = path.stat().st_size, firsts[-1], 0, -1
        for group, values in table.read(chosen, column):
            if group != current:
                number, current = firsts[group], group
            documents = _texts if is_text else _token_lists
            for document in documents(path, column, values, number):
                number += 1
                yield document, number * size // rows - (number - 1) * size // rows


def _find_column(path: Path, schema: Any) -> tuple[str, bool]:
    """Return the column of documents, and whether it holds text. Raises ConfigError."""
    from pyarrow import types

    for key in (*TEXT_KEYS, *TOKEN_KEYS):
        if key not in schema.names:
            continue
        if key in TEXT_KEYS:
            return key, True
        kind = schema.field(key).type
        is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        if is_list and types.is_integer(kind.value_type):
            return key, False
        raise ConfigError(str(path), [f"found the column '{key}' of type {kind}; {WANTED}"])
    raise ConfigError(
        str(path), [f"found the columns {', '.join(schema.names) or 'none'}; {WANTED}"]
    )


def _texts(path: Path, column: str, values: Any, first: int) -> Iterator[str]:
    for number, text in enumerate(values.to_pylist(), first + 1):
        if not isinstance(text, str):
            _refuse(path, number, f"found {kind_of(text)} under '{column}'")
        yield text


def _token_lists(path: Path, column: str, values: Any, first: int) -> Iterator[PreTokenised]:
    """Yield the lists of ids of a column: views of its values."""
    from pyarrow import compute

    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False).argmax()
        _refuse(path, first + int(missing) + 1, f"found null under '{column}'")
    lengths = compute.list_value_length(values).to_numpy(zero_copy_only=False)
    ends, ids = np.cumsum(lengths, dtype=np.int64), values.flatten()
    if ids.null_count:
        missing = ids.is_null().to_numpy(zero_copy_only=False).argmax()
        row = int(ends.searchsorted(missing, "right"))
        _refuse(path, first + row + 1, f"found null among the ids under '{column}'")
    for number, part in enumerate(np.split(ids.to_numpy(), ends[:-1]), first + 1):
        yield PreTokenised(part, path, f"row {number}")


def _refuse(path: Path, number: int, found: str) -> NoReturn:
    raise ConfigError(str(path), [f"row {number}: {found}; {WANTED}"])


def kind_of(value: Any) -> str:
    """Return the kind of a JSON value, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
