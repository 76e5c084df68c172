"""Reads documents from text files, and digests that do not depend on how documents are split into
files. Imports no torch.

A file is JSONL, plain or compressed by gzip or Zstandard, with the document under `text` or
`content`; or Parquet, with the document in a column of that name. At most one document, or one row
group, is in memory.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainer.problems import ConfigError
from trainer.tokens.text_files import PARQUET, unreadable

TEXT_KEYS = ("text", "content")
BLOCK_BYTES = 2**20
ZSTANDARD_BYTES = 2**15
"""Compressed bytes read at a time: repetitive text can expand a thousandfold."""
BATCH_ROWS = 1000
"""Rows of a Parquet file decoded at a time."""

Advance = Callable[[int], None]
"""Called with the number of bytes on disk that were read since the last call."""


@dataclass(frozen=True)
class Piece:
    """A part of a text file, of whole documents."""

    path: Path
    start: int = 0
    stop: int | None = None
    """The range is bytes of a plain file (the lines that begin there), or rows of a Parquet file
    (whole row groups). A compressed file is a single piece. None: to the end."""


def cut(path: Path, piece_bytes: int) -> list[Piece]:
    """Return the pieces of a file, of about `piece_bytes` each if its format can be split."""
    if path.name.endswith(PARQUET):
        borders = _row_borders(path, piece_bytes)
    elif path.name.endswith(".jsonl"):
        borders = [*range(0, path.stat().st_size, piece_bytes), path.stat().st_size]
    else:
        return [Piece(path)]
    return [Piece(path, *pair) for pair in itertools.pairwise(borders)]


def read_documents(piece: Piece) -> Iterator[tuple[str, int]]:
    """Yield the documents of a piece, each with the bytes on disk that were read for it.

    Blank lines are skipped. Raises ConfigError that names the line or row.
    """
    return _read_rows(piece) if piece.path.name.endswith(PARQUET) else _read_lines(piece)


def digest_files(paths: Sequence[Path], advance: Advance) -> list[str]:
    """Return the SHA-256 of no file, the first file, the first two files and so on, as one stream.

    The stream consists of the decompressed lines; a Parquet row counts as the line {"text": ...}.
    So the last digest does not depend on how documents are split and compressed.
    """
    digest = hashlib.sha256()
    digests = [digest.hexdigest()]
    for path in paths:
        if path.name.endswith(PARQUET):
            for text, read in _read_rows(Piece(path)):
                digest.update(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
                advance(read)
        else:
            _digest_lines(path, digest, advance)
        digests.append(digest.hexdigest())
    return digests


def _digest_lines(path: Path, digest: Any, advance: Advance) -> None:
    buffer = memoryview(bytearray(BLOCK_BYTES))  # reused: new memory takes time
    last, before = b"\n", 0
    with open_lines(path) as (lines, file):
        while size := lines.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(buffer[:size])
            last = bytes(buffer[size - 1 : size])
            offset = file.tell()
            advance(offset - before)
            before = offset
    if last != b"\n":
        digest.update(b"\n")


def _read_lines(piece: Piece) -> Iterator[tuple[str, int]]:
    with open_lines(piece.path) as (lines, file):
        if piece.start:  # a line that begins earlier belongs to the previous piece
            lines.seek(piece.start - 1)
            lines.readline()
        at = before = lines.tell() if piece.start else 0
        for number, line in enumerate(lines, 1):
            if piece.stop is not None and at >= piece.stop:
                return
            at += len(line)
            if line.isspace():
                continue
            try:
                text = _text_of(_parse(line))
            except ValueError as error:
                raise _line_error(piece, number, str(error)) from None
            # Calling tell() for each line of a plain file is slower than counting bytes.
            offset = at if lines is file else file.tell()
            yield text, offset - before
            before = offset


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not readable JSON: {error}") from None


def _text_of(record: Any) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"found {_kind(record)}")
    for key in TEXT_KEYS:
        if key in record:
            if not isinstance(record[key], str):
                raise ValueError(f"found {_kind(record[key])} under '{key}'")
            return str(record[key])
    keys = ", ".join(f"'{key}'" for key in list(record)[:5]) or "none"
    raise ValueError(f"found the keys {keys}")


def _line_error(piece: Piece, number: int, found: str) -> ConfigError:
    with open_lines(piece.path) as (lines, _):
        number += piece.start and 1 + _count_ends(lines, piece.start - 1)
    wanted = "expected a JSON object with the document's text, a string, under 'text' or 'content'"
    return ConfigError(str(piece.path), [f"line {number}: {found}; {wanted}"])


def _count_ends(lines: BinaryIO, size: int) -> int:
    """Return the number of newlines in the next `size` bytes."""
    blocks = [BLOCK_BYTES] * (size // BLOCK_BYTES) + [size % BLOCK_BYTES]
    return sum(lines.read(block).count(b"\n") for block in blocks)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


@contextlib.contextmanager
def open_lines(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a JSONL file: yield its decompressed content, and the file on disk.

    Raises ConfigError, also for a truncated or damaged compressed file while it is read.
    """
    try:
        with path.open("rb", buffering=BLOCK_BYTES) as file:  # documents are long lines
            yield _decompressed(path, file), file
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from None


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    if path.name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=file), BLOCK_BYTES)
    if path.name.endswith(".zst"):
        return io.BufferedReader(_ZstandardFile(path, file), BLOCK_BYTES)
    return file


class _ZstandardFile(io.RawIOBase):
    """Decompresses all frames. The library's own reader does not detect a truncated file."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError:
            raise ConfigError(str(path), ["reading it needs: pip install zstandard"]) from None
        self._library, self._file = zstandard, file
        self._frame: Any = None
        self._rest = b""
        self._text = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer; return the bytes read, 0 at the end."""
        while not self._text:
            block = self._rest or self._file.read(ZSTANDARD_BYTES)
            if not block:
                if self._frame is not None:
                    raise EOFError("the file ends within a Zstandard frame")
                return 0
            self._text = memoryview(self._decompress(block))
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        return size

    def _decompress(self, block: bytes) -> bytes:
        if self._frame is None:
            window = 2**31  # allows files of `zstd --long=31`
            self._frame = self._library.ZstdDecompressor(max_window_size=window).decompressobj()
        try:
            text: bytes = self._frame.decompress(block)
        except self._library.ZstdError as error:
            raise OSError(str(error)) from None
        self._rest = self._frame.unused_data
        if self._frame.eof:
            self._frame = None
        return text


def _read_rows(piece: Piece) -> Iterator[tuple[str, int]]:
    wanted = "expected the document's text, a string, in a column 'text' or 'content'"
    with _open_parquet(piece.path) as file:
        names = file.schema_arrow.names
        column = next((key for key in TEXT_KEYS if key in names), None)
        if column is None:
            raise ConfigError(
                str(piece.path), [f"found the columns {', '.join(names) or 'none'}; {wanted}"]
            )
        size, rows, first = piece.path.stat().st_size, file.metadata.num_rows, 0
        for group in range(file.num_row_groups):
            number = first
            first += file.metadata.row_group(group).num_rows
            if number < piece.start or (piece.stop is not None and number >= piece.stop):
                continue
            for text in _values(file, group, column):
                number += 1
                if not isinstance(text, str):
                    problem = f"row {number}: found {_kind(text)} under '{column}'; {wanted}"
                    raise ConfigError(str(piece.path), [problem])
                yield text, number * size // rows - (number - 1) * size // rows


def _values(file: Any, group: int, column: str) -> Iterator[Any]:
    batches = file.iter_batches(
        batch_size=BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False
    )
    for batch in batches:
        yield from batch.column(0).to_pylist()


def _row_borders(path: Path, piece_bytes: int) -> list[int]:
    """Return first rows of row groups, about `piece_bytes` apart, and the number of rows."""
    with _open_parquet(path) as file:
        groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    borders, row, size = [0], 0, 0
    for group in groups:
        if size >= piece_bytes:
            borders.append(row)
            size = 0
        row, size = row + group.num_rows, size + group.total_byte_size
    return [*borders, row] if row else []


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ConfigError(str(path), ["reading it needs: pip install pyarrow"]) from None
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
        raise unreadable(path, error) from None
