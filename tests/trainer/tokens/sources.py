"""Sources of text in every format that is read, and the tokens that plain text becomes."""

import gzip
import itertools
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import zstandard
from pyarrow import parquet

from study.corpus import _to_line
from trainer.tokens.documents import read_documents
from trainer.tokens.piece import Piece

Write = Callable[[Path, Sequence[str]], None]


def to_lines(texts: Sequence[str]) -> bytes:
    return "".join(_to_line({"text": text}) for text in texts).encode()


def write_plain(path: Path, texts: Sequence[str]) -> None:
    path.write_bytes(to_lines(texts))


def write_gzip(path: Path, texts: Sequence[str]) -> None:
    """Two members, as `cat a.gz b.gz` and bgzip leave them."""
    half = len(texts) // 2
    path.write_bytes(gzip.compress(to_lines(texts[:half])) + gzip.compress(to_lines(texts[half:])))


def write_zstandard(path: Path, texts: Sequence[str]) -> None:
    """Two frames, and one between them that decoders skip, as pzstd leaves them."""
    half, compress = len(texts) // 2, zstandard.ZstdCompressor().compress
    skipped = bytes.fromhex("502a4d18") + (3).to_bytes(4, "little") + b"abc"
    path.write_bytes(compress(to_lines(texts[:half])) + skipped + compress(to_lines(texts[half:])))


def write_parquet(path: Path, texts: Sequence[str]) -> None:
    columns = {"id": list(range(len(texts))), "text": pyarrow.array(texts, pyarrow.string())}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


def write_arrow(path: Path, texts: Sequence[str]) -> None:
    """The streaming format, as the library `datasets` writes it."""
    table = pyarrow.table({"id": range(len(texts)), "text": pyarrow.array(texts, pyarrow.string())})
    with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


FORMATS: dict[str, Write] = {
    "jsonl": write_plain,
    "jsonl.gz": write_gzip,
    "jsonl.zst": write_zstandard,
    "parquet": write_parquet,
    "arrow": write_arrow,
}


def texts_of(paths: Sequence[Path]) -> list[str]:
    return [text for path in paths for text, _ in read_documents(Piece(path))]


def write_source(
    root: Path, files: Sequence[Sequence[str]], held_out: Sequence[str] = (), source: str = "src"
) -> Path:
    folder = root / source
    folder.mkdir(parents=True, exist_ok=True)
    for index, texts in enumerate(files):
        write_lines(folder / f"{source}.chunk.{index:02d}.jsonl", texts)
    if held_out:
        write_lines(folder / f"{source}.val.jsonl", held_out)
    return folder


def write_lines(path: Path, texts: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def packed(texts: Sequence[str], bos: bool = True, eos: bool = True) -> list[int]:
    """The token sequence, written down plainly."""
    tokens: list[int] = []
    for text in texts:
        tokens += [256] * bos + list(text.encode()) + [257] * eos
    return tokens


CODES = {"u1": 1, "<i2": 3, "<i4": 4, "<i8": 5, "<u2": 8}
Sentences = Sequence[Sequence[int]]


def write_megatron(path: Path, documents: Sequence[Sentences], dtype: str = "<u2") -> None:
    """Write documents, each of sentences, as Megatron's IndexedDatasetBuilder does."""
    sentences = [sentence for document in documents for sentence in document]
    lengths = [len(sentence) for sentence in sentences]
    width = np.dtype(dtype).itemsize
    starts = [width * length for length in itertools.accumulate(lengths, initial=0)][:-1]
    borders = list(itertools.accumulate(map(len, documents), initial=0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(np.array(sentence, dtype).tobytes() for sentence in sentences))
    path.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, CODES[dtype], len(lengths), len(borders))
        + struct.pack(f"<{len(lengths)}i", *lengths)
        + struct.pack(f"<{len(starts)}q", *starts)
        + struct.pack(f"<{len(borders)}q", *borders)
    )
