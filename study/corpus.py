"""Public corpora as JSONL files for the trainer: two written here, one downloaded.

Each writer creates <source>.chunk.NN.jsonl and <source>.val.jsonl in a folder: one document a line
under `text`; whole documents are held out. The val file is the marker: it is written last, and if
it exists, the others are complete.
"""

import contextlib
import hashlib
import json
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from study.config import CORPORA
from trainer.files import replace_durably
from trainer.problems import ConfigError

PYTHON_STDLIB, PYTHON_TOPICS, FINEWEB_EDU = CORPORA

Document = dict[str, str]

STDLIB_BYTES = 10_000_000
"""Size limit of the default corpus: enough for a demonstration, read in a second."""
STDLIB_CHUNKS = 4
STDLIB_HELD_OUT_EVERY = 20
STDLIB_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
"""Folders with tests or with code that is not the library's own."""

TOPICS_HELD_OUT_EVERY = 10

FINEWEB_REPOSITORY = "HuggingFaceFW/fineweb-edu"
FINEWEB_FILES = "sample/10BT/*.parquet"
FINEWEB_CHUNKS = 32
FINEWEB_HELD_OUT = 10_000
"""Documents held out, but at most one in twenty."""
FINEWEB_BATCH = 1000
"""Documents in memory at a time."""


def write_python_stdlib(output_dir: str | Path) -> None:
    """Write the standard library of the running Python: real text without a download.

    The documents are the source files, sorted by path; every twentieth is held out.
    """
    documents = list(_stdlib_documents(Path(sysconfig.get_path("stdlib"))))
    held_out = documents[STDLIB_HELD_OUT_EVERY - 1 :: STDLIB_HELD_OUT_EVERY]
    del documents[STDLIB_HELD_OUT_EVERY - 1 :: STDLIB_HELD_OUT_EVERY]
    with CorpusFiles(Path(output_dir), PYTHON_STDLIB, STDLIB_CHUNKS) as files:
        for index, document in enumerate(documents):
            files.write(index * STDLIB_CHUNKS // len(documents), document)
        for document in held_out:
            files.hold_out(document)


def write_python_topics(output_dir: str | Path) -> None:
    """Write what `help()` of the running Python says of the language: half a megabyte of English.

    The documents are the topics, sorted by name; every tenth is held out. Raises ConfigError if
    this Python comes without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ConfigError(PYTHON_TOPICS, [f"{error}; this Python has no help topics"]) from None
    with CorpusFiles(Path(output_dir), PYTHON_TOPICS, chunks=1) as files:
        for number, name in enumerate(sorted(topics), start=1):
            document = {"text": topics[name], "topic": name}
            if number % TOPICS_HELD_OUT_EVERY:
                files.write(0, document)
            else:
                files.hold_out(document)


def _stdlib_documents(folder: Path) -> Iterator[Document]:
    """Yield the library's source files, sorted by path, at most STDLIB_BYTES in total.

    They are chosen by the hash of the path, so that no large part of the alphabet is missing and a
    file added by a Python version displaces few others.
    """
    names = [path.relative_to(folder).as_posix() for path in _python_files(folder)]
    chosen, total = {}, 0
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        content = (folder / name).read_bytes()
        total += len(content)
        if total > STDLIB_BYTES:
            break
        with contextlib.suppress(UnicodeDecodeError):  # some sources declare another encoding
            chosen[name] = content.decode("utf-8")
    for name in sorted(chosen):
        yield {"text": chosen[name], "path": name}


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in STDLIB_SKIPPED]  # skip the others
        yield from (Path(parent, name) for name in files if name.endswith(".py"))


def fetch_fineweb_edu(output_dir: str | Path) -> None:
    """Download FineWeb-Edu sample-10BT with huggingface_hub and write it as 32 chunks.

    About 28 GB are downloaded to the hub's cache, where an interrupted download is resumed, and
    about 48 GB written. HF_ENDPOINT, HF_HOME and HF_TOKEN are honoured. Raises ConfigError if a
    package is missing or the hub cannot be reached.
    """
    paths = _download(FINEWEB_REPOSITORY, FINEWEB_FILES)
    parquet = _import_parquet()
    count = sum(parquet.ParquetFile(path).metadata.num_rows for path in paths)
    held_out = evenly_spaced(count, min(FINEWEB_HELD_OUT, count // 20))
    print(f"{FINEWEB_EDU}: {count:,} documents, {len(held_out):,} of them held out", flush=True)
    with CorpusFiles(Path(output_dir), FINEWEB_EDU, FINEWEB_CHUNKS) as files:
        for index, text in enumerate(_read_texts(parquet, paths)):
            if index in held_out:
                files.hold_out({"text": text})
            else:
                files.write(chunk_of(index, FINEWEB_CHUNKS), {"text": text})


def chunk_of(index: int, chunks: int) -> int:
    """Return the chunk of a document, by a hash of its index, so that all chunks are similar."""
    digest = hashlib.blake2b(index.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % chunks


def evenly_spaced(count: int, wanted: int) -> set[int]:
    """Return `wanted` evenly spaced numbers below `count`."""
    return {(2 * number + 1) * count // (2 * wanted) for number in range(wanted)}


def _download(repository: str, pattern: str) -> list[Path]:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise _missing_package(error) from None
    _import_parquet()  # fail before downloading 28 GB
    try:
        folder = snapshot_download(repository, repo_type="dataset", allow_patterns=pattern)
    except (OSError, ValueError) as error:  # base classes of the hub's own errors
        reason = " ".join(str(error).split())
        raise ConfigError(
            repository, [f"download failed: {reason}; run this again to resume it"]
        ) from error
    paths = sorted(Path(folder).glob(pattern))
    if not paths:
        raise ConfigError(repository, [f"found no files; expected {pattern}"])
    return paths


def _import_parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise _missing_package(error) from None
    return parquet


def _missing_package(error: ImportError) -> ConfigError:
    return ConfigError(
        FINEWEB_EDU, [f"{error}; to download it: pip install huggingface_hub pyarrow"]
    )


def _read_texts(parquet: Any, paths: Sequence[Path]) -> Iterator[str]:
    for number, path in enumerate(paths, 1):
        print(f"{FINEWEB_EDU}: writing file {number} of {len(paths)}", flush=True)
        file = parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            found = ", ".join(file.schema_arrow.names)
            raise ConfigError(str(path), [f"found the columns {found}; expected 'text'"])
        for batch in file.iter_batches(batch_size=FINEWEB_BATCH, columns=["text"]):
            yield from batch.column(0).to_pylist()


class CorpusFiles:
    """The files of a corpus while they are written; they are renamed together at the end.

    Use as a context manager. After an error the partial files are removed.
    """

    def __init__(self, folder: Path, source: str, chunks: int) -> None:
        names = [f"{source}.chunk.{index:02d}.jsonl" for index in range(chunks)]
        self._held_out = folder / f"{source}.val.jsonl"
        self._paths = [*(folder / name for name in names), self._held_out]
        self._stale = set(folder.glob(f"{source}.chunk.*.jsonl"))
        self._files: list[TextIO] = []

    def write(self, chunk: int, document: Document) -> None:
        """Append a document to a chunk. Raises ConfigError if it cannot be written."""
        try:
            self._files[chunk].write(_to_line(document))
        except OSError as error:
            raise self._problem(error) from None

    def hold_out(self, document: Document) -> None:
        """Append a document to the val file. Raises ConfigError if it cannot be written."""
        self.write(-1, document)

    def __enter__(self) -> "CorpusFiles":
        self._held_out.parent.mkdir(parents=True, exist_ok=True)
        self._files = [_partial(path).open("w", encoding="utf-8") for path in self._paths]
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            failed = self._close()
            if error_type is None and failed is None:
                self._publish()
        finally:
            for path in self._paths:
                _partial(path).unlink(missing_ok=True)
        if failed is not None:
            raise self._problem(failed) from None

    def _problem(self, error: OSError) -> ConfigError:
        folder = str(self._held_out.parent)
        return ConfigError(folder, [f"the corpus cannot be written: {error.strerror}"])

    def _close(self) -> OSError | None:
        """Close all files; return the first error, such as that of a full disk."""
        errors = []
        for file in self._files:
            try:
                file.close()
            except OSError as error:
                errors.append(error)
        return errors[0] if errors else None

    def _publish(self) -> None:
        """Rename the finished files."""
        self._held_out.unlink(missing_ok=True)  # a mix of old and new chunks is not complete
        for path in self._stale.difference(self._paths):
            path.unlink()
        for path in self._paths:
            replace_durably(_partial(path), path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _to_line(document: Document) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"


CORPUS_WRITERS: dict[str, Callable[[str | Path], None]] = {
    PYTHON_STDLIB: write_python_stdlib,
    PYTHON_TOPICS: write_python_topics,
    FINEWEB_EDU: fetch_fineweb_edu,
}
"""Name of a corpus -> function that writes it into a folder. Raises ConfigError."""
