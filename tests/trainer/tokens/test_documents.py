"""Text in every format: the same documents and key however they are split; errors name the file."""

import gzip
import json
import subprocess
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.trainer.tokens.sources import (
    FORMATS,
    texts_of,
    to_lines,
    write_arrow,
    write_parquet,
    write_plain,
)
from trainer.problems import ConfigError
from trainer.tokens import documents
from trainer.tokens.documents import Piece, cut, digest_files, read_documents
from trainer.tokens.shards import ensure_shards
from trainer.tokens.text_files import find_text_files, list_text_files

TEXTS = ["one", "", "zwei: ä\u2028", "three\nlines\n", "x" * 3000, '"quoted" \\', "last"]


def digest_of(paths: Sequence[Path]) -> str:
    return digest_files(paths, lambda read: None)[-1]


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_holds_the_same_documents(tmp_path: Path, ending: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "plain").mkdir()
    name = "000_00000.parquet" if ending == "parquet" else f"src.chunk.00.{ending}"
    FORMATS[ending](tmp_path / "src" / name, TEXTS)
    FORMATS[ending](tmp_path / "src" / f"src.val.{ending}", ["held", "out"])
    write_plain(tmp_path / "plain" / "src.chunk.00.jsonl", TEXTS)
    write_plain(tmp_path / "plain" / "src.val.jsonl", ["held", "out"])
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards")
    plain = ensure_shards(tmp_path, "plain", tmp_path / "shards")
    assert shards.train.tolist() == plain.train.tolist()
    assert shards.val.tolist() == plain.val.tolist()
    assert (shards.training, shards.held_out) == (plain.training, plain.held_out)
    assert shards.key == plain.key


def test_the_keys_of_earlier_shards_are_kept(tmp_path: Path) -> None:
    """The key was made by the version that knew plain JSONL only."""
    (tmp_path / "src").mkdir()
    lines = b'{"text": "a\\u00e4"}\n\n{"content": "b"}'
    (tmp_path / "src" / "src.chunk.00.jsonl").write_bytes(lines)
    (tmp_path / "src" / "src.val.jsonl").write_bytes(b'{"text": "v"}\n')
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").key == "03d7e698b4c17e74"


@settings(max_examples=30)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), data=st.data()
)
def test_the_key_does_not_depend_on_files_and_formats(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("split")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    paths = []
    for index, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(texts)], strict=True)):
        ending = data.draw(st.sampled_from(sorted(FORMATS)))
        paths.append(folder / f"{index}.{ending}")
        FORMATS[ending](paths[-1], texts[start:stop])
    write_plain(folder / "whole.jsonl", texts)
    assert texts_of(paths) == texts
    assert digest_of(paths) == digest_of([folder / "whole.jsonl"])


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=12),
    size=st.integers(1, 200),
    blank=st.booleans(),
    end=st.booleans(),
)
def test_pieces_contain_every_document_once(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, blank: bool, end: bool
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    lines = to_lines(texts).replace(b"\n", b"\n\n" if blank else b"\n")
    (folder / "a.jsonl").write_bytes(lines if end else lines.rstrip(b"\n"))
    write_parquet(folder / "a.parquet", texts)
    write_arrow(folder / "a.arrow", texts)
    for path in sorted(folder.iterdir()):
        pieces = cut(path, size)
        assert [text for piece in pieces for text, _ in read_documents(piece)] == texts
        read = sum(read for piece in pieces for _, read in read_documents(piece))
        assert read <= path.stat().st_size * 2


@pytest.mark.parametrize("ending", FORMATS)
def test_bytes_read_add_up_to_the_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    FORMATS[ending](path, TEXTS)
    reads: list[int] = []
    digest_files([path], reads.append)
    assert sum(reads) == path.stat().st_size
    assert sum(read for _, read in read_documents(Piece(path))) == path.stat().st_size


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_line_that_does_not_fit_into_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(documents, "LINE_BYTES", 4000)
    monkeypatch.setattr(documents, "BLOCK_BYTES", 1000)
    path = tmp_path / f"a.{ending}"
    FORMATS[ending](path, ["a", "b" * 3000, "c" * 5000, "d"])
    with pytest.raises(ConfigError, match=r"line 3: more than 4,000 bytes; expected at most"):
        digest_of([path])
    with pytest.raises(ConfigError, match=r"line 3: more than 4,000 bytes; expected at most"):
        texts_of([path])
    FORMATS[ending](path, ["a", "b" * 3000, "", "d"])
    assert texts_of([path]) == ["a", "b" * 3000, "", "d"]


def test_a_small_gzip_file_of_a_huge_line_is_refused_in_little_memory(tmp_path: Path) -> None:
    """3 GB of text without an end of line, in 200 members of 15 KB."""
    (tmp_path / "src").mkdir()
    member = gzip.compress(b"x" * 15_000_000, 1)
    path = tmp_path / "src" / "src.chunk.00.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n{"text": "') + member * 200)
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError) as caught:
            ensure_shards(tmp_path, "src", tmp_path / "shards")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"{path}: 1 problem\n  line 2: more than 268,435,456 bytes; expected at most 256 MiB, "
        "which have to fit into memory"
    )
    assert peak < 2**24
    assert not list(tmp_path.glob("shards/*"))


def test_files_of_other_tools_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(to_lines(TEXTS))
    subprocess.run(["gzip", "-k", "a.jsonl"], cwd=tmp_path, check=True)
    assert texts_of([tmp_path / "a.jsonl.gz"]) == TEXTS


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst", "parquet", "arrow"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "nothing of the kind"])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / f"src.chunk.00.{ending}"
    FORMATS[ending](path, [f"{number} {number**7}" for number in range(20_000)])
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        {
            "cut": whole[:-9],
            "flipped": whole[:middle]
            + bytes(b ^ 255 for b in whole[middle:][:64])
            + whole[middle:][64:],
            "nothing of the kind": b"plain text " * 9,
        }[damage]
    )
    with pytest.raises(ConfigError) as caught:
        ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert str(caught.value).startswith(f"{path}: 1 problem\n  ")
    assert not list(tmp_path.glob("shards/*"))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"title": ["a"]}, "found the columns title; expected"),
        ({"text": [None]}, "row 1: found null under 'text'; expected"),
        ({"content": ["a", None]}, "row 2: found null under 'content'; expected"),
        ({"text": [7]}, "row 1: found a number under 'text'; expected"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, columns: dict[str, Any], found: str) -> None:
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=found):
        texts_of([tmp_path / "a.parquet"])


@settings(max_examples=30)
@given(size=st.integers(1, 60), bad=st.integers(0, 9))
def test_a_bad_line_of_a_piece_is_counted_from_the_start_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, size: int, bad: int
) -> None:
    path = tmp_path_factory.mktemp("bad") / "a.jsonl"
    lines = [json.dumps({"text": "x" * number}) for number in range(10)]
    lines[bad] = "not JSON"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=f"line {bad + 1}: not valid JSON"):
        for piece in cut(path, size):
            list(read_documents(piece))


@pytest.mark.parametrize(
    ("ending", "package"),
    [("jsonl.zst", "zstandard"), ("parquet", "pyarrow"), ("arrow", "pyarrow")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, package: str
) -> None:
    FORMATS[ending](tmp_path / f"a.{ending}", TEXTS)
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        texts_of([tmp_path / f"a.{ending}"])


def test_training_and_held_out_files(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    chunks = ["000_00000.parquet", "a.chunk.0.jsonl", "a.chunk.1.jsonl.gz", "a.chunk.2.jsonl.zst"]
    held_out = ["a.chunk.9.val.jsonl.gz", "b.val.jsonl.zst", "c.val.parquet"]
    for name in [*chunks, *held_out, "notes.txt", "other.jsonl", ".a.chunk.0.jsonl.partial"]:
        (tmp_path / "src" / name).touch()
    (tmp_path / "src.val.jsonl").touch()  # only where the folder has none
    files = find_text_files(tmp_path, "src")
    assert [path.name for path in files.chunks] == chunks
    assert [path.name for path in files.held_out] == held_out
    for name in held_out:
        (tmp_path / "src" / name).unlink()
    assert find_text_files(tmp_path, "src").held_out == [tmp_path / "src.val.jsonl"]
    assert list_text_files(tmp_path, "nowhere").chunks == []


def test_a_file_and_its_compressed_copy_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for name in ("a.chunk.0.jsonl", "a.chunk.0.jsonl.gz"):
        (tmp_path / "src" / name).touch()
    with pytest.raises(
        ConfigError, match=r"found a.chunk.0.jsonl and a.chunk.0.jsonl.gz; expected"
    ):
        find_text_files(tmp_path, "src")
