"""Text files to memory-mapped token shards, once for each content and tokenizer. Imports no torch.

Reads   <root_dir>/<source>/*.chunk.*.jsonl, and held out <root_dir>/<source>/*.val.jsonl or
        <root_dir>/<source>.val.jsonl: a JSON object a line, the document under `text` or `content`
Writes  <shards_dir>/<source>-<tokenizer>-<key>/: train.bin, val.bin (little-endian token ids) and
        manifest.json, for the trainer

Documents follow each other in the sorted order of file names, then of lines, as BOS + tokens + EOS.
So neither the token sequence nor the key depends on how the documents are split over files.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.config import DataConfig, TokenizerConfig
from trainer.metrics import write_atomically
from trainer.settings import ConfigError
from trainer.tokenizer import Tokenizer, Tokens, build_tokenizer

LAYOUT = 1
"""Part of every key: raise it when the content of a shard folder comes to mean something else."""

TEXT_KEYS = ("text", "content")
BLOCK_BYTES = 2**20
MAKING = ".making-"
"""Start of the name of a folder that is not finished."""
ABANDONED_S = 24 * 3600.0
"""An unfinished folder in which nothing was written for so long belongs to a process that died."""
PROGRESS_S = 5.0
"""Seconds between progress lines; a corpus that takes less prints none."""

Stat = list[list[Any]]
"""Path, size in bytes and mtime in ns of each text file: if equal, the text is taken as equal."""


@dataclass(frozen=True)
class Part:
    """One half of a source, training or held out, as token ids in a file."""

    documents: int
    tokens: int
    """Token ids, BOS and EOS included."""
    bytes: int
    """UTF-8 bytes of the documents' text, for bits per byte."""


@dataclass(frozen=True)
class Shards:
    """The tokens of one source on disk."""

    folder: Path
    key: str
    """Sixteen hex digits of content, tokenizer, add_bos and add_eos."""
    dtype: str
    """Type of a token id: <u2, or <u4 for vocabularies beyond 65,536."""
    training: Part
    held_out: Part

    @property
    def train_tokens(self) -> int:
        """Tokens to train on."""
        return self.training.tokens

    @property
    def val_tokens(self) -> int:
        """Tokens held out; 0 where the source has no validation file."""
        return self.held_out.tokens

    @property
    def train_bytes(self) -> int:
        """Bytes of the text to train on."""
        return self.training.bytes

    @property
    def val_bytes(self) -> int:
        """Bytes of the held-out text."""
        return self.held_out.bytes

    @cached_property
    def train(self) -> Tokens:
        """The training tokens, (train_tokens,), memory-mapped."""
        return self._map("train.bin", self.train_tokens)

    @cached_property
    def val(self) -> Tokens:
        """The held-out tokens, (val_tokens,), memory-mapped."""
        return self._map("val.bin", self.val_tokens)

    def _map(self, name: str, tokens: int) -> Tokens:
        if tokens == 0:  # an empty file cannot be mapped
            return np.empty(0, self.dtype)
        return np.memmap(self.folder / name, self.dtype, "r", shape=(tokens,))

    def describe(self) -> dict[str, Any]:
        """Return what the command writes: the same for the same text, whenever it was made."""
        return {
            "folder": str(self.folder),
            "key": self.key,
            "documents": self.training.documents + self.held_out.documents,
            "train_documents": self.training.documents,
            "val_documents": self.held_out.documents,
            "train_tokens": self.train_tokens,
            "val_tokens": self.val_tokens,
            "train_bytes": self.train_bytes,
            "val_bytes": self.val_bytes,
        }


@dataclass(frozen=True)
class TextFiles:
    """The files of one source, each list in sorted order."""

    source: str
    chunks: list[Path]
    held_out: list[Path]

    def stat(self) -> Stat:
        """Return what tells quickly whether the files have changed."""
        stats: Stat = []
        for path in (*self.chunks, *self.held_out):
            try:
                stat = path.stat()
            except OSError as error:
                raise _unreadable(path, error) from None
            stats.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        return stats


@dataclass(frozen=True)
class Encoding:
    """All that decides about the tokens of a given text."""

    tokenizer: Tokenizer
    add_bos: bool = True
    add_eos: bool = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every id."""
        return np.dtype("<u2" if self.tokenizer.vocab_size <= 2**16 else "<u4")

    def describe(self) -> dict[str, Any]:
        """Return the part of a key that is not text."""
        return {
            "layout": LAYOUT,
            "tokenizer": self.tokenizer.fingerprint,
            "add_bos": self.add_bos,
            "add_eos": self.add_eos,
        }

    def frame(self) -> tuple[bytes, bytes]:
        """Return the bytes that stand before and after the tokens of each document."""
        bos = np.array([self.tokenizer.bos] * self.add_bos, self.dtype)
        eos = np.array([self.tokenizer.eos] * self.add_eos, self.dtype)
        return bos.tobytes(), eos.tobytes()


def open_shards(data: DataConfig) -> dict[str, Shards]:
    """Return the shards of every source of a run, making those that are missing.

    Raises ConfigError for text that cannot be used, or that is shorter than one sequence.
    """
    shards = {
        source: ensure_shards(
            data.root_dir, source, data.shards_dir, data.tokenizer, data.add_bos, data.add_eos
        )
        for source in sorted(data.sources)
    }
    for source, shard in shards.items():
        if shard.train_tokens < data.seq_len + 1:
            raise ConfigError(
                str(Path(data.root_dir, source)),
                [
                    f"found {shard.train_tokens:,} tokens to train on; expected at least "
                    f"data.seq_len + 1 = {data.seq_len + 1:,}"
                ],
            )
    return shards


def ensure_shards(
    root_dir: str | Path,
    source: str,
    shards_dir: str | Path,
    tokenizer: TokenizerConfig | None = None,
    add_bos: bool = True,
    add_eos: bool = True,
) -> Shards:
    """Return the shards of a source: found by its files' stat, else by their content, else made.

    Safe in several processes at once: each ends with a complete folder. Raises ConfigError.
    """
    encoding = Encoding(build_tokenizer(tokenizer or TokenizerConfig()), add_bos, add_eos)
    files = find_text_files(Path(root_dir), source)
    stat = files.stat()
    prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '_', source)}-{encoding.tokenizer.name}"
    for folder in sorted(Path(shards_dir).glob(f"{prefix}-*")):
        found = _read_manifest(folder)
        if found and found[1]["encoding"] == encoding.describe() and found[1]["stat"] == stat:
            return found[0]
    key = _content_key(files, encoding)
    folder = Path(shards_dir) / f"{prefix}-{key}"
    found = _read_manifest(folder)
    if found:
        with contextlib.suppress(OSError):  # of a folder shared read-only, the text is hashed anew
            _write_manifest(folder, found[1] | {"stat": stat})
        return found[0]
    return _make(folder, key, files, stat, encoding)


def find_text_files(root: Path, source: str) -> TextFiles:
    """Return the text files of a source. Raises ConfigError where there are none."""
    folder = root / source
    if not folder.is_dir():
        present = sorted(path.name for path in root.glob("*") if path.is_dir())
        known = f"; {root} holds {', '.join(present[:10])}" if present else ""
        wanted = f"expected a folder with files named like {source}.chunk.00.jsonl"
        raise ConfigError(str(folder), [f"no such folder; {wanted}{known}"])
    held_out = sorted(folder.glob("*.val.jsonl"))
    chunks = sorted(set(folder.glob("*.chunk.*.jsonl")) - set(held_out))
    if not chunks:
        names = sorted(path.name for path in folder.iterdir())
        found = ", ".join(names[:5] + ["..."] * (len(names) > 5)) or "nothing"
        wanted = f"expected files named like {source}.chunk.00.jsonl"
        raise ConfigError(str(folder), [f"found {found}; {wanted}"])
    beside = root / f"{source}.val.jsonl"
    if not held_out and beside.exists():
        held_out = [beside]
    return TextFiles(source, chunks, held_out)


def read_documents(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the documents of a JSONL file, each with the bytes of its line; blank lines count none.

    Raises ConfigError that names the line.
    """
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except UnicodeDecodeError as error:
                raise _line_error(path, number, f"not UTF-8 text: {error.reason}") from None
            except json.JSONDecodeError as error:
                found = f"not valid JSON: {error.msg} at column {error.colno}"
                raise _line_error(path, number, found) from None
            except (ValueError, RecursionError) as error:
                raise _line_error(path, number, f"not readable JSON: {error}") from None
            yield _text_of(record, path, number), len(line)


def _text_of(record: Any, path: Path, number: int) -> str:
    if not isinstance(record, dict):
        raise _line_error(path, number, f"found {_kind(record)}")
    for key in TEXT_KEYS:
        if key in record:
            if not isinstance(record[key], str):
                raise _line_error(path, number, f"found {_kind(record[key])} under '{key}'")
            return str(record[key])
    keys = ", ".join(f"'{key}'" for key in list(record)[:5]) or "none"
    raise _line_error(path, number, f"found the keys {keys}")


def _line_error(path: Path, number: int, found: str) -> ConfigError:
    wanted = "expected a JSON object with the document's text, a string, under 'text' or 'content'"
    return ConfigError(str(path), [f"line {number}: {found}; {wanted}"])


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=BLOCK_BYTES)  # documents are long lines
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(str(path), [f"cannot be read: {error.strerror}"])


def _content_key(files: TextFiles, encoding: Encoding) -> str:
    parts = {"train": _digest(files.chunks), "val": _digest(files.held_out)}
    canonical = json.dumps({**encoding.describe(), **parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of files as one stream of lines, the same however it is split."""
    digest = hashlib.sha256()
    for path in paths:
        block = b"\n"
        with _open(path) as file:
            while more := file.read(BLOCK_BYTES):
                block = more
                digest.update(block)
        if not block.endswith(b"\n"):
            digest.update(b"\n")
    return digest.hexdigest()


def _make(folder: Path, key: str, files: TextFiles, stat: Stat, encoding: Encoding) -> Shards:
    """Tokenise into a temporary folder and make it visible by one rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    making = _unused(folder)
    making.mkdir()
    try:
        progress = Progress(files.source, sum(size for _, size, _ in stat))
        training = _pack(files.chunks, making / "train.bin", encoding, progress)
        held_out = _pack(files.held_out, making / "val.bin", encoding, progress)
        problem = None
        if training.documents == 0:
            problem = "found no documents to train on; expected at least one"
        elif files.stat() != stat:
            problem = "the files changed while they were read; run this again when they are whole"
        if problem:
            raise ConfigError(str(files.chunks[0].parent), [problem])
        shards = Shards(folder, key, encoding.dtype.str, training, held_out)
        manifest = {"key": key, "dtype": shards.dtype, "encoding": encoding.describe()}
        for name, part in (("train", training), ("val", held_out)):
            manifest[name] = dataclasses.asdict(part)
        _write_manifest(making, {**manifest, "stat": stat})
        return _publish(making, shards)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _pack(paths: Sequence[Path], target: Path, encoding: Encoding, progress: "Progress") -> Part:
    """Write the documents of files to one file of token ids; memory is that of one document."""
    documents = tokens = text_bytes = 0
    (before, after), dtype, encode = encoding.frame(), encoding.dtype, encoding.tokenizer.encode
    with target.open("wb", buffering=BLOCK_BYTES) as file:
        for path in paths:
            for text, line_bytes in read_documents(path):
                ids = encode(text)
                file.write(before)
                file.write(ids.astype(dtype, copy=False).data)
                file.write(after)
                documents += 1
                tokens += len(ids)
                text_bytes += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
                progress.advance(line_bytes)
        file.flush()
        os.fsync(file.fileno())
    tokens += documents * (len(before) + len(after)) // dtype.itemsize
    return Part(documents, tokens, text_bytes)


def _publish(making: Path, shards: Shards) -> Shards:
    """Give a finished folder its name; where another process was first, return what it made."""
    while True:
        try:
            making.rename(shards.folder)
            return shards
        except OSError:
            if not shards.folder.exists():
                raise
        found = _read_manifest(shards.folder)
        if found:
            return found[0]
        # Torn: files were lost or cut after they were made. Out of the way with it.
        torn = _unused(shards.folder)
        with contextlib.suppress(FileNotFoundError):
            shards.folder.rename(torn)
        shutil.rmtree(torn, ignore_errors=True)


def _read_manifest(folder: Path) -> tuple[Shards, dict[str, Any]] | None:
    """Return shards and manifest of a folder; None where there are none, or not as described."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        parts = [Part(**manifest[name]) for name in ("train", "val")]
        shards = Shards(folder, manifest["key"], manifest["dtype"], *parts)
        width = np.dtype(shards.dtype).itemsize
        for name, part in zip(("train.bin", "val.bin"), parts, strict=True):
            if (folder / name).stat().st_size != part.tokens * width:
                return None
        if not {"encoding", "stat"} <= manifest.keys():
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shards, manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def _remove_abandoned(shards_dir: Path) -> None:
    """Remove what processes that were killed have left half made."""
    for folder in shards_dir.glob(f"{MAKING}*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - newest > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def _unused(folder: Path) -> Path:
    """Return a path beside a folder that no other process uses, and no reader looks at."""
    return folder.with_name(f"{MAKING}{folder.name}-{uuid.uuid4().hex}")


class Progress:
    """Prints now and then how far the tokenising is."""

    def __init__(self, source: str, total_bytes: int) -> None:
        self._source, self._total_bytes, self._done_bytes = source, total_bytes, 0
        self._start_s = self._printed_s = time.monotonic()

    def advance(self, line_bytes: int) -> None:
        """Count a line that was read."""
        self._done_bytes += line_bytes
        now_s = time.monotonic()
        if now_s - self._printed_s < PROGRESS_S:
            return
        self._printed_s = now_s
        rate = self._done_bytes / (now_s - self._start_s)
        left_s = max(0.0, (self._total_bytes - self._done_bytes) / rate)
        print(
            f"{self._source}: {self._done_bytes / 1e6:,.0f} of {self._total_bytes / 1e6:,.0f} MB "
            f"tokenised, {rate / 1e6:,.0f} MB/s, left {int(left_s // 60)}:{int(left_s % 60):02d}",
            flush=True,
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.shards", description="Tokenise a source into token shards, once."
    )
    parser.add_argument("--root-dir", required=True, help="folder that holds the source's folder")
    parser.add_argument("--source", required=True, help="name of the source's folder")
    parser.add_argument("--shards-dir", required=True, help="folder of the token shards")
    parser.add_argument("--output", required=True, type=Path, help="JSON file: where they are")
    parser.add_argument("--tokenizer", choices=["bytes"], default="bytes")
    parser.add_argument("--no-add-bos", action="store_true", help="no BOS before documents")
    parser.add_argument("--no-add-eos", action="store_true", help="no EOS after documents")
    given = parser.parse_args(arguments)
    try:
        shards = ensure_shards(
            given.root_dir,
            given.source,
            given.shards_dir,
            TokenizerConfig(name=given.tokenizer),
            not given.no_add_bos,
            not given.no_add_eos,
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(given.output, json.dumps(shards.describe(), indent=1) + "\n")
    print(
        f"{given.source}: {shards.train_tokens:,} tokens to train on, "
        f"{shards.val_tokens:,} held out, in {shards.folder}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
