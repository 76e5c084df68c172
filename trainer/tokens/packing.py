"""Tokenises documents into a file of token ids. Imports no torch.

Pre-tokenised documents are taken as ids of the configured tokenizer. Each is checked against its
vocabulary, and BOS and EOS are added where a document lacks them.
"""

import io
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.tokens.build_tokenizer import build_tokenizer
from trainer.tokens.documents import BLOCK_BYTES, Advance, read_documents
from trainer.tokens.piece import Document, Piece
from trainer.tokens.tokenizer import Tokenizer, Tokens

LAYOUT = 1
"""Version of the shard format, part of every key: increment it if the format changes."""
SYNC_BYTES = 2**21
"""Written bytes after which a thread syncs the file to disk."""
PROGRESS_S = 5.0
"""Seconds between progress lines."""


@dataclass(frozen=True)
class Part:
    """A file of token ids: the training or held-out half of a source, or a piece of it."""

    documents: int
    tokens: int
    """Token ids, BOS and EOS included."""
    bytes: int | None
    """UTF-8 bytes of the text, for bits per byte; None if a document was pre-tokenised."""

    def __add__(self, other: "Part") -> "Part":
        is_known = self.bytes is not None and other.bytes is not None
        return Part(
            self.documents + other.documents,
            self.tokens + other.tokens,
            (self.bytes or 0) + (other.bytes or 0) if is_known else None,
        )


@dataclass(frozen=True)
class Encoding:
    """All that determines the tokens of a text."""

    config: TokenizerConfig
    add_bos: bool = True
    add_eos: bool = True

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ConfigError, also if it lacks a BOS or EOS that is to be added."""
        tokenizer = build_tokenizer(self.config)
        wanted = (("bos", self.add_bos, tokenizer.bos), ("eos", self.add_eos, tokenizer.eos))
        problems = [
            f"found no {name.upper()}; expected one, since data.add_{name} is true; set "
            f"data.tokenizer.{name} (hf) or data.add_{name}: false"
            for name, added, number in wanted
            if added and number < 0
        ]
        if problems:
            raise ConfigError(str(self.config.path), problems)
        return tokenizer

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every id."""
        return np.dtype("<u2" if self.tokenizer.vocab_size <= 2**16 else "<u4")

    def describe(self) -> dict[str, Any]:
        """Return the parts of a key besides the text."""
        return {
            "layout": LAYOUT,
            "tokenizer": self.tokenizer.fingerprint,
            "add_bos": self.add_bos,
            "add_eos": self.add_eos,
        }

    def ids(self, document: Document) -> Tokens:
        """Return the ids of a document without the BOS and EOS of `frame`. Raises ConfigError."""
        if isinstance(document, str):
            return self.tokenizer.encode(document)
        ids, size = document.ids, self.tokenizer.vocab_size
        if ids.size and not 0 <= ids.min() <= ids.max() < size:
            position = int(((ids < 0) | (ids >= size)).argmax())
            found = f"{document.where}, token {position + 1}: found id {ids[position]}"
            expected = f"expected ids from 0 to {size - 1:,}, those of data.tokenizer"
            hint = f"'{self.config.name}'; name the tokenizer that the ids were made with"
            raise ConfigError(str(document.path), [f"{found}; {expected} {hint}"])
        if self.add_eos and ids.size and ids[-1] == self.tokenizer.eos:
            ids = ids[:-1]
        if self.add_bos and ids.size and ids[0] == self.tokenizer.bos:
            ids = ids[1:]
        return ids

    def frame(self) -> tuple[bytes, bytes]:
        """Return the bytes to write before and after the tokens of each document."""
        ids = (self.tokenizer.bos, self.add_bos), (self.tokenizer.eos, self.add_eos)
        before, after = (np.array([number] * added, self.dtype).tobytes() for number, added in ids)
        return before, after


class _SyncedFile(io.FileIO):
    """A file that is synced to disk when it is closed, and in the background before."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")
        self._thread = ThreadPoolExecutor(1)
        self._synced: Future[None] | None = None
        self._waiting_bytes = 0

    def write(self, data: Any) -> int:
        """Write, and sync to disk after each `SYNC_BYTES`."""
        written = super().write(data)
        self._waiting_bytes += written
        if self._waiting_bytes >= SYNC_BYTES and self._is_idle():
            self._waiting_bytes = 0
            self._synced = self._thread.submit(os.fsync, self.fileno())
        return written

    def _is_idle(self) -> bool:
        """Say whether no sync is in progress. Raises OSError if the last one failed."""
        if self._synced is None or not self._synced.done():
            return self._synced is None
        self._synced.result()
        return True

    def close(self) -> None:
        """Sync the rest and close. Raises OSError."""
        if self.closed:
            return
        try:
            if self._synced is not None:
                self._synced.result()
            os.fsync(self.fileno())
        finally:
            self._thread.shutdown()
            super().close()


def pack(pieces: Iterable[Piece], target: Path, encoding: Encoding, advance: Advance) -> Part:
    """Write the documents of pieces to a file of token ids. Raises ConfigError."""
    documents = tokens = text_bytes = 0
    knows_bytes = True
    (before, after), dtype = encoding.frame(), encoding.dtype
    with io.BufferedWriter(_SyncedFile(target), BLOCK_BYTES) as file:
        for piece in pieces:
            for document, read in read_documents(piece):
                ids = encoding.ids(document)
                file.write(before)
                file.write(ids.astype(dtype, copy=False).data)
                file.write(after)
                documents += 1
                tokens += len(ids)
                if isinstance(document, str):
                    text_bytes += _utf8_bytes(document)
                else:
                    knows_bytes = False
                advance(read)
    tokens += documents * (len(before) + len(after)) // dtype.itemsize
    return Part(documents, tokens, text_bytes if knows_bytes else None)


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


class Progress:
    """Prints progress on a source from time to time. Thread-safe."""

    def __init__(self, source: str, done: str, total_bytes: int) -> None:
        """`done` says what is done with the bytes, such as "tokenised"."""
        self._source, self._done, self._total_bytes = source, done, total_bytes
        self._done_bytes = 0
        self._start_s = self._printed_s = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, read: int) -> None:
        """Add bytes that were read from the text files."""
        with self._lock:
            self._done_bytes += read
            now_s = time.monotonic()
            if now_s - self._printed_s < PROGRESS_S:
                return
            self._printed_s = now_s
            rate = max(1, self._done_bytes) / (now_s - self._start_s)
            left_s = max(0.0, (self._total_bytes - self._done_bytes) / rate)
            print(
                f"{self._source}: {self._done_bytes / 1e6:,.0f} of {self._total_bytes / 1e6:,.0f} "
                f"MB {self._done}, {rate / 1e6:,.1f} MB/s, left {int(left_s // 60)}:"
                f"{int(left_s % 60):02d}",
                flush=True,
            )
