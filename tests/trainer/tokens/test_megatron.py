"""Megatron's .bin and .idx: written here field by field, as its published layout says."""

import itertools
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.tokens.sources import CODES, packed, write_megatron, write_source
from trainer.problems import ConfigError
from trainer.tokens import pieces, shards
from trainer.tokens.documents import cut, read_documents
from trainer.tokens.megatron import MegatronFile
from trainer.tokens.piece import Piece
from trainer.tokens.shards import ensure_shards
from trainer.tokens.text_files import find_text_files


def ids_of(path: Path) -> list[list[int]]:
    return [document.ids.tolist() for document, _ in read_documents(Piece(path))]


def complaint(root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        ensure_shards(root, "src", root / "shards")
    assert not list((root / "shards").glob(".making-*"))
    return str(caught.value)


def test_a_file_by_hand(tmp_path: Path) -> None:
    """Two documents, 3 + 1 and 2 ids of two bytes each, byte for byte."""
    (tmp_path / "a.bin").write_bytes(bytes.fromhex("0100 0200 0300 0400 0500 ff00"))
    (tmp_path / "a.idx").write_bytes(
        b"MMIDIDX\0\0"
        + bytes.fromhex("0100000000000000 08 0300000000000000 0300000000000000")
        + bytes.fromhex("03000000 01000000 02000000")
        + bytes.fromhex("0000000000000000 0600000000000000 0800000000000000")
        + bytes.fromhex("0000000000000000 0200000000000000 0300000000000000")
    )
    assert ids_of(tmp_path / "a.bin") == [[1, 2, 3, 4], [5, 255]]


@settings(max_examples=30)
@given(
    documents=st.lists(
        st.lists(st.lists(st.integers(0, 127), max_size=5), max_size=4), min_size=1, max_size=12
    ),
    dtype=st.sampled_from(list(CODES)),
    piece_bytes=st.integers(1, 40),
)
def test_documents_are_whole_whatever_the_type_and_the_pieces(
    tmp_path_factory: pytest.TempPathFactory,
    documents: list[list[list[int]]],
    dtype: str,
    piece_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("megatron") / "a.bin"
    write_megatron(path, documents, dtype)
    expected = [list(itertools.chain(*document)) for document in documents]
    assert ids_of(path) == expected
    read = [pair for piece in cut(path, piece_bytes) for pair in read_documents(piece)]
    if path.stat().st_size:
        assert [document.ids.tolist() for document, _ in read] == expected
        assert sum(size for _, size in read) == path.stat().st_size


def test_sentences_in_another_order_than_in_the_file(tmp_path: Path) -> None:
    write_megatron(tmp_path / "a.bin", [[[1, 2], [3]], [[4]]])
    index = bytearray((tmp_path / "a.idx").read_bytes())
    index[34 + 12 : 34 + 36] = struct.pack("<3q", 2, 6, 0)  # the first 2 3, the second 4, then 1
    (tmp_path / "a.idx").write_bytes(index)
    assert ids_of(tmp_path / "a.bin") == [[2, 3, 4], [1]]


def test_the_tokens_are_those_of_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files, of 2 and 4 bytes an id, at once and in pieces; BOS and EOS are never doubled."""
    texts = [f"document {number}: " + "ä" * (number % 40) for number in range(400)]
    write_source(tmp_path, [texts], ["held out"], source="text")
    plain = ensure_shards(tmp_path, "text", tmp_path / "shards")
    ids = [list(text.encode()) for text in texts]
    ended = [[[*numbers, 257]] if place % 3 else [numbers] for place, numbers in enumerate(ids)]
    write_megatron(tmp_path / "src" / "a_text_document.bin", ended[:150], "<u2")
    write_megatron(
        tmp_path / "src" / "b_text_document.bin",
        [[[256], *document] for document in ended[150:]],
        "<i4",
    )
    write_megatron(tmp_path / "src" / "a.val.bin", [[list(b"held out")]])
    for name, threshold in (("shards", shards.IN_PIECES_BYTES), ("others", 0)):
        monkeypatch.setattr(shards, "IN_PIECES_BYTES", threshold)
        monkeypatch.setattr(pieces, "PIECE_BYTES", 3000)
        made = ensure_shards(tmp_path, "src", tmp_path / name, workers=1)
        assert made.train.tolist() == plain.train.tolist() == packed(texts)
        assert made.val.tolist() == packed(["held out"])
        assert (made.training.documents, made.training.bytes) == (400, None)
    told = "src: its token ids are taken as ids of the tokenizer 'bytes' (258 ids)\n"
    assert capsys.readouterr().out.count(told) == 2


@pytest.mark.parametrize(
    ("bos", "eos", "expected"),
    [
        (True, True, [256, 1, 257, 256, 257]),
        (False, True, [1, 257, 257]),
        (True, False, [256, 1, 257, 256, 257]),
        (False, False, [1, 257, 257]),
    ],
)
def test_an_end_in_the_file_is_kept(
    tmp_path: Path, bos: bool, eos: bool, expected: list[int]
) -> None:
    write_megatron(tmp_path / "src" / "a.bin", [[[1, 257]], [[257]]])
    made = ensure_shards(tmp_path, "src", tmp_path / "shards", None, bos, eos)
    assert made.train.tolist() == expected


@pytest.mark.parametrize(("wrong", "dtype"), [(258, "<u2"), (-1, "<i4"), (2**40, "<i8")])
def test_an_id_beyond_the_vocabulary_is_named(tmp_path: Path, wrong: int, dtype: str) -> None:
    path = tmp_path / "src" / "a.bin"
    write_megatron(path, [[[1, 2]], [[3], [4, wrong, 5]]], dtype)
    assert complaint(tmp_path) == (
        f"{path}: 1 problem\n  document 2, token 3: found id {wrong}; expected ids from 0 to 257, "
        "those of data.tokenizer 'bytes'; name the tokenizer that the ids were made with"
    )


@pytest.mark.parametrize(
    ("place", "change", "file", "found"),
    [
        (0, b"TNTIDX\0\0\0", "idx", "found no index of Megatron-LM; expected one that begins"),
        (9, b"\x02", "idx", "found version 2; expected version 1"),
        (17, b"\x06", "idx", "found ids of type code 6; expected integers"),
        (18, b"\x09", "idx", "found 94 bytes; expected 166 for 9 sequences in 2 documents"),
        (34, b"\x07", "bin", "found 12 bytes; expected 20 by its index"),
        (46, b"\xff\xff\xff\xff", "idx", "sequence 1: not within a.bin"),
        (54, b"\x0b", "idx", "sequence 2: not within a.bin"),
        (70, b"\x01", "idx", "found documents from sequence 1 to 3 of 3"),
        (78, b"\x04", "idx", "documents 1 to 2: found borders that are not ascending"),
    ],
)
def test_a_damaged_index_is_named(
    tmp_path: Path, place: int, change: bytes, file: str, found: str
) -> None:
    path = tmp_path / "src" / "a.bin"
    write_megatron(path, [[[1, 2, 3], [4]], [[5, 6]]])
    index = bytearray(path.with_suffix(".idx").read_bytes())
    assert len(index) == 34 + 3 * 4 + 3 * 8 + 3 * 8
    index[place : place + len(change)] = change
    path.with_suffix(".idx").write_bytes(index)
    message = complaint(tmp_path)
    assert message.startswith(f"{path.with_suffix('.' + file)}: 1 problem\n  ")
    assert found in message


def test_a_cut_or_multimodal_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "src" / "a.bin"
    write_megatron(path, [[[1, 2, 3]], [[4]]])
    whole = path.read_bytes(), path.with_suffix(".idx").read_bytes()
    path.write_bytes(whole[0][:-2])
    assert "a.bin: 1 problem\n  found 6 bytes; expected 8 by its index" in complaint(tmp_path)
    path.write_bytes(whole[0])
    path.with_suffix(".idx").write_bytes(whole[1] + b"\0\0")
    assert "found the modes of a multimodal dataset" in complaint(tmp_path)
    path.with_suffix(".idx").write_bytes(b"")
    assert "a.idx: 1 problem\n  found no index of Megatron-LM" in complaint(tmp_path)
    path.unlink()
    assert "a.bin: 1 problem\n  cannot be read: No such file" in complaint(tmp_path)


def test_files_without_documents_add_nothing(tmp_path: Path) -> None:
    """The first as Megatron writes it, with a border; the second with its header alone."""
    write_megatron(tmp_path / "src" / "a.bin", [])
    (tmp_path / "src" / "b.bin").touch()
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 0, 0)
    (tmp_path / "src" / "b.idx").write_bytes(header)
    for name in ("a.bin", "b.bin"):
        path = tmp_path / "src" / name
        assert (cut(path, 1), ids_of(path), MegatronFile(path).documents) == ([], [], 0)
    assert "found no documents to train on; expected at least one" in complaint(tmp_path)
    write_megatron(tmp_path / "src" / "c.bin", [[], [[7]]])  # the first document is empty
    made = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert made.train.tolist() == [256, 257, 256, 7, 257]


def test_a_bin_file_without_an_index_is_not_text(tmp_path: Path) -> None:
    write_source(tmp_path, [["a"]])
    (tmp_path / "src" / "pytorch_model.bin").touch()
    assert [path.name for path in find_text_files(tmp_path, "src").on_disk] == [
        "src.chunk.00.jsonl"
    ]
    (tmp_path / "src" / "src.chunk.00.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"found pytorch_model.bin; expected .*\.bin with \.idx"):
        find_text_files(tmp_path, "src")


def test_a_change_of_the_index_alone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "src" / "a.bin"
    write_megatron(path, [[[1, 2]], [[3]]])
    first = ensure_shards(tmp_path, "src", tmp_path / "shards")
    write_megatron(path, [[[1]], [[2, 3]]])  # the same .bin
    second = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert first.train.tolist() == [256, 1, 2, 257, 256, 3, 257]
    assert second.train.tolist() == [256, 1, 257, 256, 2, 3, 257]


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """Of 8 GB (sparse) only what is asked for; an array of it all would be 8 GB too."""
    path, length, count = tmp_path / "a.bin", 2**20, 2000
    lengths, starts = np.full(count, length, "<i4"), 4 * length * np.arange(count, dtype="<i8")
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, count, count + 1)
    borders = np.arange(count + 1, dtype="<i8")
    path.with_suffix(".idx").write_bytes(
        header + lengths.tobytes() + starts.tobytes() + borders.tobytes()
    )
    with path.open("wb") as file:
        file.truncate(4 * length * count)
        file.seek(4 * length * (count - 1))
        file.write(np.array([7, 8], "<i4").tobytes())
    tracemalloc.start()
    try:
        parts = cut(path, 2**25)
        ((last, _),) = itertools.islice(read_documents(Piece(path, count - 1, count)), 1)
        total = MegatronFile(path).documents
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last.ids[:3].tolist() == [7, 8, 0]
    assert (total, len(parts)) == (count, 250)
    assert peak < 2**21
