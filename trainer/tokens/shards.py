"""Tokenises text files into memory-mapped shards, once per content and tokenizer. Imports no torch.

Reads   the text files of <root_dir>/<source>, see text_files.py and documents.py
Writes  <shards_dir>/<source>-<tokenizer>-<key>/: train.bin, val.bin (little-endian token ids) and
        manifest.json, for the trainer
Writes  --output: their folder, key and sizes, and the facts of the files that they were made of

Documents are written as BOS + tokens + EOS, in the order of file names, then of lines. Neither the
token sequence nor the key depends on how documents are split into files.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from trainer.config import TokenizerConfig
from trainer.data_config import TokenizerName
from trainer.files import make_folder, write_atomically
from trainer.host import count_cores
from trainer.problems import ConfigError
from trainer.settings import validate
from trainer.tokens.documents import digest_files
from trainer.tokens.packing import Encoding, Part, Progress, pack
from trainer.tokens.piece import Piece
from trainer.tokens.pieces import CHANGED, WorkerError, join_pieces, make_pieces, plan_jobs
from trainer.tokens.shard_folder import (
    MAKING,
    Shards,
    disk_errors_named,
    publish,
    read_manifest,
    remove_abandoned,
    unused,
    write_manifest,
)
from trainer.tokens.text_files import Stat, TextFiles, describe_texts, find_text_files

IN_PIECES_BYTES = 2**26
"""Least bytes of text that are tokenised in pieces: for less, starting workers does not pay off."""

Digests = dict[str, list[str]]
"""For train and val, see `digest_files`."""


def ensure_shards(
    root_dir: str | Path,
    source: str,
    shards_dir: str | Path,
    tokenizer: TokenizerConfig | None = None,
    add_bos: bool = True,
    add_eos: bool = True,
    workers: int | None = None,
) -> Shards:
    """Return the shards of a source: found by its files' stat, else by their content, else made.

    Large text is tokenised by `workers` processes; None: one per core that this process has.
    Several processes may call it at once: each ends with a complete folder. Raises ConfigError.
    """
    encoding = Encoding(tokenizer or TokenizerConfig(), add_bos, add_eos)
    return find_or_make(Path(root_dir), source, Path(shards_dir), encoding, workers)


def find_or_make(
    root_dir: Path, source: str, shards_dir: Path, encoding: Encoding, workers: int | None = None
) -> Shards:
    """Do `ensure_shards` with an encoding, which several sources may share."""
    files = find_text_files(root_dir, source)
    stat = files.stat()
    prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '_', source)}-{encoding.tokenizer.name}"
    for folder in sorted(shards_dir.glob(f"{prefix}-*")):
        found = read_manifest(folder)
        if found and found[1]["encoding"] == encoding.describe() and found[1]["stat"] == stat:
            return found[0]
    digests = _digest_halves(files, stat)
    key = _content_key(digests, encoding)
    folder = shards_dir / f"{prefix}-{key}"
    found = read_manifest(folder)
    if found:
        training_key = _content_key(digests, encoding, ["train"])
        with contextlib.suppress(OSError):  # in a read-only folder, the text is hashed each time
            write_manifest(folder, found[1] | {"stat": stat, "training_key": training_key})
        return dataclasses.replace(found[0], training_key=training_key)
    workers = workers or count_cores()
    with disk_errors_named(shards_dir):
        return _make(folder, digests, files, stat, encoding, workers)


def _digest_halves(files: TextFiles, stat: Stat) -> Digests:
    progress = Progress(files.source, "read", sum(size for _, size, _ in stat))
    halves = {"train": files.chunks, "val": files.held_out}
    return {name: digest_files(paths, progress.advance) for name, paths in halves.items()}


def _content_key(
    digests: Digests, encoding: Encoding, halves: Sequence[str] = ("train", "val")
) -> str:
    parts = {name: digests[name][-1] for name in halves}
    canonical = json.dumps({**encoding.describe(), **parts}, sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _make(
    folder: Path, digests: Digests, files: TextFiles, stat: Stat, encoding: Encoding, workers: int
) -> Shards:
    """Tokenise into a temporary folder, then publish it."""
    make_folder(folder.parent, "data.shards_dir")
    pieces = folder.with_name(f"{MAKING}{folder.name}-pieces")
    remove_abandoned(folder.parent, pieces)
    making = unused(folder)
    making.mkdir()
    try:
        training, held_out = _pack_halves(making, pieces, digests, files, stat, encoding, workers)
        problem = None
        if training.documents == 0:
            problem = "found no documents to train on; expected at least one"
        elif files.stat() != stat:
            problem = CHANGED
        if problem:
            raise ConfigError(str(files.chunks[0].parent), [problem])
        training_key = _content_key(digests, encoding, ["train"])
        keys = {"training_key": training_key, "tokenizer": encoding.tokenizer.fingerprint}
        shards = Shards(folder, folder.name[-16:], encoding.dtype.str, training, held_out, **keys)
        manifest = {"key": shards.key, "dtype": shards.dtype, "encoding": encoding.describe()}
        manifest["training_key"] = training_key
        for name, part in (("train", training), ("val", held_out)):
            manifest[name] = dataclasses.asdict(part)
        write_manifest(making, {**manifest, "stat": stat})
        shards = publish(making, shards)
        if None in (training.bytes, held_out.bytes):
            tokenizer = encoding.tokenizer
            taken = f"ids of the tokenizer '{tokenizer.name}' ({tokenizer.vocab_size:,} ids)"
            print(f"{files.source}: its token ids are taken as {taken}", flush=True)
    except (FileNotFoundError, WorkerError):
        # Another process may have finished first and removed pieces that we still needed.
        found = read_manifest(folder)
        if not found:
            raise
        shards = found[0]
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(pieces, ignore_errors=True)
    return shards


def _pack_halves(
    making: Path,
    folder: Path,
    digests: Digests,
    files: TextFiles,
    stat: Stat,
    encoding: Encoding,
    workers: int,
) -> list[Part]:
    """Write train.bin and val.bin; large text by pieces in `folder`, which survive a kill."""
    halves = {"train": files.chunks, "val": files.held_out}
    total = sum(size for _, size, _ in stat)
    if total < IN_PIECES_BYTES:
        advance = Progress(files.source, "tokenised", total).advance
        return [
            pack(map(Piece, paths), making / f"{name}.bin", encoding, advance)
            for name, paths in halves.items()
        ]
    width = encoding.dtype.itemsize
    stats = {"train": stat[: len(files.chunks)], "val": stat[len(files.chunks) :]}
    jobs = {
        name: plan_jobs(paths, stats[name], digests[name], folder) for name, paths in halves.items()
    }
    all_jobs = [*jobs["train"], *jobs["val"]]
    missing = [job for job in all_jobs if job.result(width) is None]
    if len(missing) < len(all_jobs):
        done = f"{len(all_jobs) - len(missing):,} of {len(all_jobs):,} pieces"
        print(f"{files.source}: reusing {done} of an interrupted run", flush=True)
    progress = Progress(files.source, "tokenised", sum(job.bytes for job in missing))
    make_pieces(missing, encoding, workers, progress.advance)
    return [join_pieces(jobs[name], making / f"{name}.bin", width) for name in halves]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.tokens.shards",
        description="Tokenise a source into token shards, once.",
    )
    parser.add_argument("--root-dir", required=True, help="folder that holds the source's folder")
    parser.add_argument("--source", required=True, help="name of the source's folder")
    parser.add_argument("--shards-dir", required=True, help="folder of the token shards")
    parser.add_argument("--output", type=Path, help="JSON file to write that describes them")
    parser.add_argument("--tokenizer", choices=get_args(TokenizerName), default="bytes")
    parser.add_argument("--tokenizer-path", help="the tokenizer file; bytes has none")
    parser.add_argument("--n-words", type=int, help="number of token ids, padding included")
    parser.add_argument("--bos", help="hf: the token before a document")
    parser.add_argument("--eos", help="hf: the token after a document")
    parser.add_argument("--no-add-bos", action="store_true", help="no BOS before documents")
    parser.add_argument("--no-add-eos", action="store_true", help="no EOS after documents")
    parser.add_argument("--workers", type=int, help="processes; one per core by default")
    given = parser.parse_args(arguments)
    try:
        tokenizer = _tokenizer_config(given)
        # Before they are read: what changes meanwhile will be noticed.
        root = Path(given.root_dir)
        made_of = describe_texts(root, find_text_files(root, given.source), tokenizer.path)
        shards = ensure_shards(
            given.root_dir,
            given.source,
            given.shards_dir,
            tokenizer,
            not given.no_add_bos,
            not given.no_add_eos,
            given.workers,
        )
        if given.output is not None:
            given.output.parent.mkdir(parents=True, exist_ok=True)
            described = {**shards.describe(), "made_of": made_of}
            write_atomically(given.output, json.dumps(described, indent=1) + "\n")
    except (ConfigError, WorkerError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        place = given.output or given.shards_dir
        print(f"{place}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    print(
        f"{given.source}: {shards.train_tokens:,} tokens to train on, "
        f"{shards.val_tokens:,} held out, in {shards.folder}"
    )
    return 0


def _tokenizer_config(given: argparse.Namespace) -> TokenizerConfig:
    values = {
        "name": given.tokenizer,
        "path": given.tokenizer_path,
        "n_words": given.n_words,
        "bos": given.bos,
        "eos": given.eos,
    }
    return validate(TokenizerConfig, values, "command line")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
