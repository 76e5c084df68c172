"""The shard folder of a source: written under a temporary name, then published by one rename.

Imports no torch.
"""

import contextlib
import errno
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.files import FULL_DISK, replace_durably, write_atomically
from trainer.json_files import parse_json
from trainer.problems import ConfigError, Problem
from trainer.tokens.packing import Part
from trainer.tokens.tokenizer import Tokens

MAKING = ".making-"
"""Prefix of an unfinished folder's name."""
DISK_ERRORS = (*FULL_DISK, errno.EROFS, errno.EIO)
"""What a disk that is full, over quota or broken answers to a write."""
ABANDONED_S = 24 * 3600.0
"""Seconds without a write after which an unfinished folder is considered abandoned."""


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
    training_key: str = ""
    """As `key`, but of the text to train on alone; empty for shards of older versions."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer."""

    @property
    def train_tokens(self) -> int:
        """Tokens to train on."""
        return self.training.tokens

    @property
    def val_tokens(self) -> int:
        """Held-out tokens; 0 if the source has no validation file."""
        return self.held_out.tokens

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
        """Return what the command's output says of them, whenever they were made."""
        return {
            "folder": str(self.folder),
            "key": self.key,
            "documents": self.training.documents + self.held_out.documents,
            "train_documents": self.training.documents,
            "val_documents": self.held_out.documents,
            "train_tokens": self.train_tokens,
            "val_tokens": self.val_tokens,
            "train_bytes": self.training.bytes,
            "val_bytes": self.held_out.bytes,
        }


def publish(making: Path, shards: Shards) -> Shards:
    """Rename a finished folder; return its shards, or those of a process that was faster."""
    while True:
        try:
            replace_durably(making, shards.folder)
            return shards
        except OSError:
            if not shards.folder.exists():
                raise
        found = read_manifest(shards.folder)
        if found:
            return found[0]
        # Corrupt (truncated or missing files): move it aside and delete it.
        corrupt = unused(shards.folder)
        with contextlib.suppress(FileNotFoundError):
            shards.folder.rename(corrupt)
        shutil.rmtree(corrupt, ignore_errors=True)


def read_manifest(folder: Path) -> tuple[Shards, dict[str, Any]] | None:
    """Return shards and manifest of a folder; None if they are missing or do not match."""
    try:
        manifest = parse_json((folder / "manifest.json").read_bytes())
        training, held_out = parts = [Part(**manifest[name]) for name in ("train", "val")]
        training_key = str(manifest.get("training_key", ""))
        key, dtype = manifest["key"], manifest["dtype"]
        tokenizer = str(manifest["encoding"]["tokenizer"])
        shards = Shards(folder, key, dtype, training, held_out, training_key, tokenizer)
        width = np.dtype(shards.dtype).itemsize
        for name, part in zip(("train.bin", "val.bin"), parts, strict=True):
            if (folder / name).stat().st_size != part.tokens * width:
                return None
        if not {"encoding", "stat"} <= manifest.keys():
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return shards, manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder atomically."""
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")


def remove_abandoned(shards_dir: Path, wanted: Path) -> None:
    """Remove the unfinished folders of killed processes, except `wanted`."""
    for folder in set(shards_dir.glob(f"{MAKING}*")) - {wanted}:
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - newest > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)


def unused(folder: Path) -> Path:
    """Return a path next to a folder that no other process uses and readers ignore."""
    return folder.with_name(f"{MAKING}{folder.name}-{uuid.uuid4().hex}")


@contextlib.contextmanager
def disk_errors_named(shards_dir: Path) -> Iterator[None]:
    """Raise ConfigError instead of the OSError of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        message = f"cannot be written: {error.strerror}; expected a disk with room for the tokens"
        problem = Problem(("data", "shards_dir"), message)
        raise ConfigError(str(shards_dir), [problem]) from None
