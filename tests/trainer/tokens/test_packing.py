"""Sums of what was packed, and what is said while a source is tokenised."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.tokens import packing
from trainer.tokens.packing import SYNC_BYTES, Encoding, Part, Progress, _SyncedFile, pack
from trainer.tokens.piece import Piece, PreTokenised


def test_a_file_of_tokens_is_synced_on_the_way_and_when_it_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    file = _SyncedFile(tmp_path / "train.bin")
    file.write(b"x" * (SYNC_BYTES - 1))
    assert file._synced is None
    file.write(b"x")
    assert file._synced is not None
    file._synced.result()
    file.write(b"xx")
    assert sizes == [SYNC_BYTES]
    file.close()
    file.close()
    assert sizes == [SYNC_BYTES, SYNC_BYTES + 2]


def test_a_sync_that_failed_on_the_way_is_told_when_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one would not tell: Linux has forgotten the error by then."""
    answers = iter([OSError(errno.EIO, "Input/output error")])

    def sync(descriptor: int) -> None:
        for error in answers:
            raise error

    monkeypatch.setattr(os, "fsync", sync)
    file = _SyncedFile(tmp_path / "train.bin")
    file.write(b"x" * SYNC_BYTES)
    with pytest.raises(OSError, match="Input/output error"):
        file.close()
    assert file.closed


def test_parts_add_up() -> None:
    """The bytes of text are known if they are of both."""
    assert Part(1, 20, 300) + Part(4, 50, 600) == Part(5, 70, 900)
    unknown = Part(4, 50, None)
    assert Part(1, 20, 300) + unknown == unknown + Part(1, 20, 300) == Part(5, 70, None)


@pytest.mark.parametrize(("ids", "dtype"), [(258, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_two_bytes_hold_65536_ids(ids: int, dtype: str) -> None:
    encoding = Encoding(TokenizerConfig())
    vars(encoding)["tokenizer"] = SimpleNamespace(vocab_size=ids)
    assert encoding.dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("ids", "adds", "missing"),
    [
        ((0, 1), (True, True), ""),
        ((1, 0), (True, True), ""),  # as in GPT-NeoX, whose EOS is 0
        ((-1, 0), (False, True), ""),
        ((-1, 0), (True, True), "BOS"),
        ((0, -1), (True, False), ""),
        ((0, -1), (True, True), "EOS"),
    ],
)
def test_only_a_border_that_is_added_must_exist(
    monkeypatch: pytest.MonkeyPatch,
    ids: tuple[int, int],
    adds: tuple[bool, bool],
    missing: str,
) -> None:
    """`ids` and `adds` are of BOS and EOS."""
    tokenizer = SimpleNamespace(bos=ids[0], eos=ids[1])
    monkeypatch.setattr(packing, "build_tokenizer", lambda config: tokenizer)
    encoding = Encoding(TokenizerConfig(), *adds)
    if not missing:
        assert encoding.tokenizer is tokenizer
        return
    with pytest.raises(ConfigError, match=f"found no {missing}; expected one"):
        _ = encoding.tokenizer


def test_ids_of_a_file_lose_the_borders_that_are_added(tmp_path: Path) -> None:
    """Of the bytes, BOS is 256 and EOS 257."""
    found = {}
    for adds in ((True, True), (False, True), (True, False)):
        encoding = Encoding(TokenizerConfig(), *adds)
        found[adds] = [
            encoding.ids(PreTokenised(np.array(ids, np.int64), tmp_path, "row 1")).tolist()
            for ids in ([256, 0, 255, 257], [256], [257], [])
        ]
    assert found == {
        (True, True): [[0, 255], [], [], []],
        (False, True): [[256, 0, 255], [256], [], []],
        (True, False): [[0, 255, 257], [], [257], []],
    }


@pytest.mark.parametrize("wrong", [-1, 258])
def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path, wrong: int) -> None:
    document = PreTokenised(np.array([7, wrong, 0]), tmp_path, "row 3")
    with pytest.raises(ConfigError, match=f"row 3, token 2: found id {wrong}; expected ids from 0"):
        Encoding(TokenizerConfig()).ids(document)


def test_all_bytes_of_a_file_count_as_progress(tmp_path: Path) -> None:
    path = tmp_path / "src.chunk.00.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "zwölf"}\n')
    read: list[int] = []
    part = pack([Piece(path)], tmp_path / "train.bin", Encoding(TokenizerConfig()), read.append)
    assert sum(read) == path.stat().st_size
    assert part == Part(2, 3 + 6 + 2 * 2, 3 + 6)


def test_progress_is_told_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 MB/s, of 1,000 MB; later all of it and more, as of a file that has grown."""
    now = 100.0
    monkeypatch.setattr(packing, "time", SimpleNamespace(monotonic=lambda: now))
    progress = Progress("web", "tokenised", 1_000_000_000)
    for second in range(1, 13):
        now = 100.0 + second
        progress.advance(2_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "web: 10 of 1,000 MB tokenised, 2.0 MB/s, left 8:15",
        "web: 20 of 1,000 MB tokenised, 2.0 MB/s, left 8:10",
    ]
    now = 200.0
    progress.advance(1_176_000_000)
    assert capsys.readouterr().out == "web: 1,200 of 1,000 MB tokenised, 12.0 MB/s, left 0:00\n"
    progress = Progress("web", "tokenised", 1_000_000_000)
    now = 210.0
    progress.advance(0)  # as of the first rows of a table
    assert capsys.readouterr().out.startswith("web: 0 of 1,000 MB tokenised, 0.0 MB/s, left ")
