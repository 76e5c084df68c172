"""Reads documents of token ids from Megatron-LM's indexed dataset, <name>.bin and <name>.idx.

The index, version 1, as in megatron/core/datasets/indexed_dataset.py; little-endian, not padded:

    MMIDIDX and two zero bytes, version (u8), code of the ids' type (u1),
    number of sequences S (u8), number of document borders D (u8),
    length of each sequence in ids (S x i4), its first byte in the .bin file (S x i8),
    first sequence of each document, and S (D x i8)

A document consists of one or several sequences, such as sentences. Both files are memory-mapped.
Imports no torch.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trainer.problems import ConfigError, unreadable
from trainer.tokens.piece import Piece, PreTokenised
from trainer.tokens.text_files import INDEX
from trainer.tokens.tokenizer import Tokens

MAGIC = b"MMIDIDX\0\0"
HEADER_BYTES = 34
TYPES = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Code -> type of an id; 6 and 7 are floating-point numbers."""
BLOCK_DOCUMENTS = 2**16
"""Documents whose borders are in memory at a time."""


def document_borders(path: Path, piece_bytes: int) -> list[int]:
    """Return documents that divide a file into pieces of about `piece_bytes`, and their number."""
    file = MegatronFile(path)
    file.check_size()
    documents = file.documents
    pieces = min(documents, math.ceil(path.stat().st_size / piece_bytes))
    return [documents * number // pieces for number in range(pieces + 1)] if pieces else []


def read_megatron(piece: Piece) -> Iterator[tuple[PreTokenised, int]]:
    """Yield the documents of a piece, each with the bytes on disk that were read for it.

    Raises ConfigError if the file is damaged.
    """
    file = MegatronFile(piece.path)
    stop = piece.stop
    if stop is None:
        file.check_size()
        stop = file.documents
    for number, ids in enumerate(file.read(piece.start, stop), piece.start + 1):
        yield PreTokenised(ids, piece.path, f"document {number}"), ids.nbytes


class MegatronFile:
    """A memory-mapped .bin file with its index."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError if one of the files is missing or the index is malformed."""
        self._path, self._index = path, path.with_suffix(INDEX)
        index = _map(self._index)
        header = index[:HEADER_BYTES].tobytes()
        if len(header) < HEADER_BYTES or not header.startswith(MAGIC):
            self._refuse("found no index of Megatron-LM; expected one that begins with MMIDIDX")
        version, code = int.from_bytes(header[9:17], "little"), header[17]
        if version != 1:
            self._refuse(f"found version {version}; expected version 1")
        if code not in TYPES:
            self._refuse(f"found ids of type code {code}; expected integers: {sorted(TYPES)}")
        self._dtype = np.dtype(TYPES[code])
        sequences, borders = (int.from_bytes(header[at : at + 8], "little") for at in (18, 26))
        self.documents = max(0, borders - 1)
        expected = HEADER_BYTES + 12 * sequences + 8 * borders
        if len(index) == expected + sequences and sequences:
            self._refuse("found the modes of a multimodal dataset; expected one of text")
        if len(index) != expected:
            message = f"found {len(index):,} bytes; expected {expected:,} for"
            self._refuse(f"{message} {sequences:,} sequences in {self.documents:,} documents")
        starts, firsts = HEADER_BYTES + 4 * sequences, HEADER_BYTES + 12 * sequences
        self._lengths = index[HEADER_BYTES:starts].view("<i4")
        self._starts = index[starts:firsts].view("<i8")
        self._borders = index[firsts:].view("<i8")
        self._bytes = _map(path)
        ends = self._borders[[0, -1]].tolist() if borders else [0, 0]
        if ends != [0, sequences]:
            self._refuse(f"found documents from sequence {ends[0]} to {ends[1]} of {sequences}")

    def check_size(self) -> None:
        """Raise ConfigError unless the .bin file has as many ids as its index says."""
        found = len(self._bytes)
        expected = int(self._lengths.sum(dtype=np.int64)) * self._dtype.itemsize
        if found != expected:
            message = f"found {found:,} bytes; expected {expected:,} by its index"
            raise ConfigError(str(self._path), [message])

    def read(self, start: int, stop: int) -> Iterator[Tokens]:
        """Yield the ids of the documents `start` to `stop` (exclusive). Raises ConfigError."""
        for first in range(start, stop, BLOCK_DOCUMENTS):
            yield from self._read_block(first, min(first + BLOCK_DOCUMENTS, stop))

    def _read_block(self, start: int, stop: int) -> Iterator[Tokens]:
        borders = np.array(self._borders[start : stop + 1])
        base, last = int(borders[0]), int(borders[-1])
        if not (base >= 0 and last <= len(self._lengths) and (np.diff(borders) >= 0).all()):
            self._refuse(f"documents {start + 1} to {stop}: found borders that are not ascending")
        starts = np.array(self._starts[base:last])
        ends = starts + self._lengths[base:last].astype(np.int64) * self._dtype.itemsize
        outside = (starts < 0) | (ends < starts) | (ends > len(self._bytes))
        if outside.any():
            sequence = base + int(outside.argmax())
            self._refuse(f"sequence {sequence + 1}: not within {self._path.name}")
        is_dense = bool((starts[1:] == ends[:-1]).all())
        for begin, end in zip(borders[:-1] - base, borders[1:] - base, strict=True):
            if begin == end:
                yield self._ids(0, 0)
            elif is_dense:
                yield self._ids(starts[begin], ends[end - 1])
            else:
                pairs = zip(starts[begin:end], ends[begin:end], strict=True)
                yield np.concatenate([self._ids(*pair) for pair in pairs])

    def _ids(self, start: Any, end: Any) -> Tokens:
        ids: Tokens = self._bytes[start:end].view(self._dtype)
        return ids

    def _refuse(self, problem: str) -> NoReturn:
        raise ConfigError(str(self._index), [problem])


def _map(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, memory-mapped."""
    try:
        if path.stat().st_size == 0:  # an empty file cannot be mapped
            return np.empty(0, np.uint8)
        return np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        raise unreadable(path, error) from None
