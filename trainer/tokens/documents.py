"""Reads documents from text files, and digests that do not depend on how documents are split into
files. Imports no torch.

A file is JSONL, plain or compressed by gzip or Zstandard, with the document under `text` or
`content`; or has rows (tables.py); or is Megatron's (megatron.py). At most one document, or one row
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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from trainer.problems import ConfigError, unreadable
from trainer.tokens.megatron import document_borders, read_megatron
from trainer.tokens.piece import Document, Piece
from trainer.tokens.tables import TEXT_KEYS, kind_of, read_rows, row_borders
from trainer.tokens.text_files import ARROW, MEGATRON, PARQUET

BLOCK_BYTES = 2**20
LINE_BYTES = 2**28
"""Longest line, 256 MiB, which bounds the memory: a small compressed file may hold one of many
gigabytes."""
ZSTANDARD_BYTES = 2**15
"""Compressed bytes read at a time: repetitive text can expand a thousandfold."""

Advance = Callable[[int], None]
"""Called with the number of bytes on disk that were read since the last call."""


def has_lines(path: Path) -> bool:
    """Say whether a file consists of lines, not of rows or documents."""
    return not path.name.endswith((PARQUET, ARROW, MEGATRON))


def cut(path: Path, piece_bytes: int) -> list[Piece]:
    """Return the pieces of a file, of about `piece_bytes` each if its format can be split."""
    if path.name.endswith(MEGATRON):
        borders = document_borders(path, piece_bytes)
    elif path.name.endswith((PARQUET, ARROW)):
        borders = row_borders(path, piece_bytes)
    elif path.name.endswith(".jsonl"):
        borders = [*range(0, path.stat().st_size, piece_bytes), path.stat().st_size]
    else:
        return [Piece(path)]
    return [Piece(path, *pair) for pair in itertools.pairwise(borders)]


def read_documents(piece: Piece) -> Iterator[tuple[Document, int]]:
    """Yield the documents of a piece, each with the bytes on disk that were read for it.

    Blank lines are skipped. Raises ConfigError that names the line or row.
    """
    if has_lines(piece.path):
        return _read_lines(piece)
    return read_megatron(piece) if piece.path.name.endswith(MEGATRON) else read_rows(piece)


def digest_files(paths: Sequence[Path], advance: Advance) -> list[str]:
    """Return the SHA-256 of no file, the first file, the first two files and so on, as one stream.

    The stream consists of the decompressed lines; a row of text counts as the line {"text": ...},
    and a pre-tokenised document as in `_record`. So the last digest does not depend on how
    documents are split and compressed.
    """
    digest = hashlib.sha256()
    digests = [digest.hexdigest()]
    for path in paths:
        if has_lines(path):
            _digest_lines(path, digest, advance)
        else:
            for document, read in read_documents(Piece(path)):
                digest.update(_record(document))
                advance(read)
        digests.append(digest.hexdigest())
    return digests


def _record(document: Document) -> bytes:
    """Return what a document adds to the digest: token ids as a zero byte, their number (u8) and
    themselves (u4), which no text begins like."""
    if isinstance(document, str):
        return json.dumps({"text": document}, ensure_ascii=False).encode() + b"\n"
    count = len(document.ids).to_bytes(8, "little")
    return b"\0" + count + document.ids.astype("<u4").tobytes()


def _digest_lines(path: Path, digest: Any, advance: Advance) -> None:
    block = bytearray(BLOCK_BYTES)  # reused: new memory takes time
    buffer = memoryview(block)
    total = length = before = 0
    with open_lines(path) as (lines, file):
        while size := lines.readinto(buffer):  # type: ignore[attr-defined]
            digest.update(buffer[:size])
            total, last_end = total + size, block.rfind(b"\n", 0, size)
            length = length + size if last_end < 0 else size - last_end - 1
            if length > LINE_BYTES:
                raise _too_long(path, 1 + _ends_before(path, total))
            offset = file.tell()
            advance(offset - before)
            before = offset
    if length:
        digest.update(b"\n")


def _read_lines(piece: Piece) -> Iterator[tuple[str, int]]:
    with open_lines(piece.path) as (lines, file):
        if piece.start:  # a line that begins earlier belongs to the previous piece
            lines.seek(piece.start - 1)
            lines.readline()
        at = before = lines.tell() if piece.start else 0
        for number, line in enumerate(iter(partial(lines.readline, LINE_BYTES + 1), b""), 1):
            if piece.stop is not None and at >= piece.stop:
                return
            at += len(line)
            if len(line) > LINE_BYTES:
                raise _too_long(piece.path, _line_number(piece, number))
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


def _too_long(path: Path, number: int) -> ConfigError:
    expected = f"expected at most {LINE_BYTES >> 20:,} MiB, which have to fit into memory"
    return ConfigError(str(path), [f"line {number}: more than {LINE_BYTES:,} bytes; {expected}"])


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text: {error.reason}") from None
    except json.JSONDecodeError as error:
        # What is missing at the end is looked for after the line break.
        column = 1 + min(error.pos, len(error.doc.rstrip()))
        raise ValueError(f"not valid JSON: {error.msg} at column {column}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not readable JSON: {error}") from None


def _text_of(record: Any) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"found {kind_of(record)}")
    for key in TEXT_KEYS:
        if key in record:
            if not isinstance(record[key], str):
                raise ValueError(f"found {kind_of(record[key])} under '{key}'")
            return str(record[key])
    keys = ", ".join(f"'{key}'" for key in list(record)[:5]) or "none"
    raise ValueError(f"found the keys {keys}")


def _line_error(piece: Piece, number: int, found: str) -> ConfigError:
    wanted = "expected a JSON object with the document's text, a string, under 'text' or 'content'"
    number = _line_number(piece, number)
    return ConfigError(str(piece.path), [f"line {number}: {found}; {wanted}"])


def _line_number(piece: Piece, number: int) -> int:
    """Return the number in its file of the `number`th line of a piece."""
    return number + (1 + _ends_before(piece.path, piece.start - 1) if piece.start else 0)


def _ends_before(path: Path, size: int) -> int:
    """Return the number of newlines in the first `size` bytes of a file's content."""
    blocks = [BLOCK_BYTES] * (size // BLOCK_BYTES) + [size % BLOCK_BYTES]
    with open_lines(path) as (lines, _):
        return sum(lines.read(block).count(b"\n") for block in blocks)


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
