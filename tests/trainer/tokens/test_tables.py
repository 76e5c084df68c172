"""Hugging Face datasets and columns of token ids, against the same documents as text."""

import json
import struct
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
    packed,
    texts_of,
    write_arrow,
    write_lines,
    write_megatron,
    write_source,
)
from trainer.problems import ConfigError
from trainer.tokens.documents import cut, read_documents
from trainer.tokens.piece import Piece, PreTokenised
from trainer.tokens.shards import ensure_shards
from trainer.tokens.text_files import find_text_files

LISTS = {
    "list<uint16>": pyarrow.list_(pyarrow.uint16()),
    "list<int32>": pyarrow.list_(pyarrow.int32()),
    "large_list<int64>": pyarrow.large_list(pyarrow.int64()),
}


def write_ids(path: Path, rows: Any, kind: Any, column: str = "input_ids") -> None:
    table = pyarrow.table({column: pyarrow.array(rows, kind), "labels": range(len(rows))})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=3)
        return
    with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def ids_of(pieces: Sequence[Piece]) -> list[list[int]]:
    found = []
    for piece in pieces:
        for document, _ in read_documents(piece):
            assert isinstance(document, PreTokenised)
            found.append(document.ids.tolist())
    return found


def save_to_disk(folder: Path, files: Sequence[Sequence[str]], **others: Any) -> None:
    """Write what `Dataset.save_to_disk` of datasets 5.2 writes, as far as loading needs it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{n:05d}-of-{len(files):05d}.arrow" for n in range(len(files))]
    for name, texts in zip(names, files, strict=True):
        write_arrow(folder / name, texts)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **others}
    (folder / "state.json").write_text(json.dumps(state))


def test_both_formats_of_arrow(tmp_path: Path) -> None:
    texts = ["one", "", "zwei: ä", "three\nlines"]
    table = pyarrow.table({"content": texts})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    write_arrow(tmp_path / "b.arrow", texts)
    assert texts_of([tmp_path / "a.arrow", tmp_path / "b.arrow"]) == texts * 2
    assert [len(cut(tmp_path / f"{name}.arrow", 1)) for name in "ab"] == [2, 2]


def write_empty(folder: Path) -> None:
    """Write tables without rows: with no batch, with an empty one, and in each format."""
    table = pyarrow.table({"text": pyarrow.array([], pyarrow.string())})
    with pyarrow.ipc.new_stream(str(folder / "none.arrow"), table.schema):
        pass
    with pyarrow.ipc.new_stream(str(folder / "empty.arrow"), table.schema) as writer:
        writer.write_batch(pyarrow.record_batch([table["text"].combine_chunks()], names=["text"]))
    with pyarrow.ipc.new_file(str(folder / "file.arrow"), table.schema):
        pass
    parquet.write_table(table, folder / "rows.parquet")


def test_tables_without_rows_add_nothing(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    write_empty(tmp_path / "src")
    empty = sorted((tmp_path / "src").iterdir())
    assert len(empty) == 4 and texts_of(empty) == []
    assert [cut(path, 1) for path in empty] == [[]] * 4
    with pytest.raises(ConfigError, match="found no documents to train on; expected at least one"):
        ensure_shards(tmp_path, "src", tmp_path / "shards")
    write_arrow(tmp_path / "src" / "z.arrow", ["a", "b"])
    made = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert made.train.tolist() == packed(["a", "b"])
    for name in ("src/zero.arrow", "src/zero.parquet"):
        (tmp_path / name).touch()
        with pytest.raises(ConfigError, match=rf"{name}: 1 problem\n  cannot be read: "):
            texts_of([tmp_path / name])


def test_damaged_offsets_are_named(tmp_path: Path) -> None:
    """The text between two of them would be taken from anywhere in the memory."""
    path = tmp_path / "a.arrow"
    write_arrow(path, ["aa", "bb"])
    offsets, damaged = struct.pack("<3i", 0, 2, 4), struct.pack("<3i", 0, 5, 4)
    assert path.read_bytes().count(offsets) == 1
    path.write_bytes(path.read_bytes().replace(offsets, damaged))
    with pytest.raises(ConfigError, match=r"a\.arrow: 1 problem\n  cannot be read: "):
        texts_of([path])


def test_a_stream_that_was_cut_between_two_batches_is_named(tmp_path: Path) -> None:
    """The library reads it without a word, and half of the text is missing."""
    write_arrow(tmp_path / "a.arrow", ["a", "b", "c", "d"])
    path, half = tmp_path / "a.arrow", tmp_path / "half.arrow"
    write_arrow(half, ["a", "b"])
    path.write_bytes(half.read_bytes()[:-8])
    with pyarrow.memory_map(str(path)) as file:
        assert pyarrow.ipc.open_stream(file).read_all().num_rows == 2
    with pytest.raises(ConfigError, match=r"it ends before the end of the stream"):
        texts_of([path])


@settings(max_examples=40)
@given(
    rows=st.lists(st.lists(st.integers(0, 2**15), max_size=4), min_size=1, max_size=9),
    kind=st.sampled_from(sorted(LISTS)),
    ending=st.sampled_from(["arrow", "parquet"]),
    piece_bytes=st.integers(1, 100),
)
def test_lists_of_ids(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[int]],
    kind: str,
    ending: str,
    piece_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("ids") / f"a.{ending}"
    write_ids(path, rows, LISTS[kind])
    assert ids_of([Piece(path)]) == ids_of(cut(path, piece_bytes)) == rows


def test_lists_of_one_length(tmp_path: Path) -> None:
    """Sequences that were packed before: every row is a document."""
    rows = [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 11, 12]]
    write_ids(tmp_path / "a.arrow", rows, pyarrow.list_(pyarrow.int32(), 3))
    assert ids_of([Piece(tmp_path / "a.arrow", 3)]) == rows[3:]
    assert ids_of([Piece(tmp_path / "a.arrow")]) == rows


@pytest.mark.parametrize("column", ["input_ids", "tokens"])
def test_the_tokens_are_those_of_the_text(tmp_path: Path, column: str) -> None:
    """With and without an EOS of their own; the same ids in Megatron's file have the same key."""
    texts = [f"document {number}" for number in range(10)]
    rows = [[*text.encode(), *[257] * (number % 2)] for number, text in enumerate(texts)]
    for source in ("src", "other"):
        (tmp_path / source).mkdir()
    write_ids(tmp_path / "src" / "a.arrow", rows[:7], LISTS["list<int32>"], column)
    write_ids(tmp_path / "src" / "b.parquet", rows[7:], LISTS["list<uint16>"], column)
    made = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert made.train.tolist() == packed(texts)
    write_megatron(tmp_path / "other" / "a.bin", [[row] for row in rows])
    assert ensure_shards(tmp_path, "other", tmp_path / "shards").key == made.key
    write_source(tmp_path, [texts], source="text")
    assert ensure_shards(tmp_path, "text", tmp_path / "shards").key != made.key


def test_text_is_preferred_to_ids(tmp_path: Path) -> None:
    """A dataset after `map(tokenize)` has both, and the text needs no trust in a tokenizer."""
    table = pyarrow.table({"input_ids": [[1], [2]], "text": ["a", "b"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert texts_of([tmp_path / "a.parquet"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "kind", "found"),
    [
        ([[1], None], LISTS["list<int32>"], "row 2: found null under 'input_ids'"),
        ([[1], [], [2, None]], LISTS["list<int32>"], "row 3: found null among the ids under"),
        ([[1, 2], [], [3, 258]], LISTS["list<int32>"], "row 3, token 2: found id 258; expected"),
        ([[1], [-100]], LISTS["large_list<int64>"], "row 2, token 1: found id -100; expected"),
        ([["a"]], pyarrow.list_(pyarrow.string()), "found the column 'input_ids' of type list<"),
        ([[1.0]], pyarrow.list_(pyarrow.float32()), "found the column 'input_ids' of type list<"),
        ([7], pyarrow.int32(), "found the column 'input_ids' of type int32; expected"),
    ],
)
@pytest.mark.parametrize("ending", ["arrow", "parquet"])
def test_bad_ids_are_named(
    tmp_path: Path, rows: list[Any], kind: Any, found: str, ending: str
) -> None:
    (tmp_path / "src").mkdir()
    path = tmp_path / "src" / f"a.{ending}"
    write_ids(path, rows, kind)
    with pytest.raises(ConfigError) as caught:
        ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert str(caught.value).startswith(f"{path}: 1 problem\n  {found}")
    assert not list(tmp_path.glob("shards/.making-*"))


def test_a_saved_dataset_has_the_files_that_it_names(tmp_path: Path) -> None:
    """Another one was saved to the same folder before, with more files."""
    save_to_disk(tmp_path / "src", [["old"]] * 3)
    save_to_disk(tmp_path / "src", [["a"], ["b"]])
    (tmp_path / "src" / "cache-0a1b.arrow").touch()
    write_lines(tmp_path / "src" / "x.val.jsonl", ["held"])
    made = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert made.train.tolist() == packed(["a", "b"])
    assert made.val.tolist() == packed(["held"])


@pytest.mark.parametrize(
    ("splits", "held_out"),
    [
        ({"train": ["a"], "test": ["t"], "validation": ["v"]}, ["v"]),
        ({"test": ["t"], "train": ["a"]}, ["t"]),
        ({"train": ["a"], "unsupervised": ["u"]}, []),
    ],
)
def test_the_splits_of_a_dataset(
    tmp_path: Path, splits: dict[str, list[str]], held_out: list[str]
) -> None:
    """As `DatasetDict.save_to_disk` writes them, and as they are in the library's cache."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    for folder in ("cached", "plain"):
        (tmp_path / folder).mkdir()
    for name, texts in splits.items():
        save_to_disk(tmp_path / "src" / name, [texts])
        if name != "unsupervised":
            write_arrow(tmp_path / "cached" / f"c4-{name}-00000-of-00001.arrow", texts)
            write_arrow(tmp_path / "plain" / f"{name}.arrow", texts)
    (tmp_path / "cached" / "cache-0a1b.arrow").touch()
    for source in ("src", "cached", "plain"):
        files = find_text_files(tmp_path, source)
        assert texts_of(files.chunks) == ["a"]
        assert texts_of(files.held_out) == held_out


@pytest.mark.parametrize("ending", ["-00000-of-00001", "-00000-of-00001-2d5a1467fff1081b", ""])
def test_the_splits_of_parquet_files_from_the_hub(tmp_path: Path, ending: str) -> None:
    """As `huggingface-cli download` leaves them; older ones have a digest in their names."""
    (tmp_path / "src").mkdir()
    for split, texts in (("train", ["a"]), ("test", ["t"]), ("validation", ["v"])):
        name = f"{split}{ending}.parquet"
        parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "src" / name)
    for name in ("000_00000.parquet", "test-suites.parquet"):  # no splits
        parquet.write_table(pyarrow.table({"text": [name]}), tmp_path / "src" / name)
    files = find_text_files(tmp_path, "src")
    assert texts_of(files.chunks) == ["000_00000.parquet", "test-suites.parquet", "a"]
    assert texts_of(files.held_out) == ["v"]


def test_a_description_that_does_not_fit_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "src"
    save_to_disk(folder, [["a"], ["b"]])
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(
        ConfigError, match=r"data-00001-of-00002.arrow: 1 problem\n  cannot be read"
    ):
        find_text_files(tmp_path, "src")
    for content in ("", "[]", "{}", '{"_data_files": 7}', '{"_data_files": [{"name": "a"}]}'):
        (folder / "state.json").write_text(content)
        with pytest.raises(ConfigError, match=r"state.json: 1 problem\n  cannot be read: expected"):
            find_text_files(tmp_path, "src")
    for name in ("7", '"a\\u0000.arrow"', '"' + "a" * 300 + '.arrow"', '"state.json"', "{}"):
        (folder / "state.json").write_text(f'{{"_data_files": [{{"filename": {name}}}]}}')
        with pytest.raises(ConfigError, match=r": 1 problem\n  (cannot be|_data_files: found)"):
            find_text_files(tmp_path, "src")
    (folder / "dataset_dict.json").write_text('{"splits": ["test"]}')
    save_to_disk(folder / "test", [["a"]])
    with pytest.raises(ConfigError, match=r"src: 1 problem\n  found the splits test; expected 'tr"):
        find_text_files(tmp_path, "src")
