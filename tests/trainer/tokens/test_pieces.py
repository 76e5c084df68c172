"""Tokenising piece by piece: the same bytes for any number of workers and after a kill."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.tokens.sources import packed, write_source
from tests.waiting import PATIENCE_S, wait_until
from trainer import host
from trainer.config import TokenizerConfig
from trainer.problems import ConfigError
from trainer.tokens import pieces, shards
from trainer.tokens.packing import Encoding
from trainer.tokens.piece import Piece
from trainer.tokens.shards import ensure_shards
from trainer.tokens.text_files import stat_file

ROOT = Path(__file__).parents[3]
TEXTS = [f"document {number}: " + "ä" * (number % 40) for number in range(3000)]


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "IN_PIECES_BYTES", 0)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 30_000)


def folders(root: Path) -> list[str]:
    return [path.name for path in (root / "shards").iterdir()]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_tokens_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, small_pieces: None, workers: int
) -> None:
    folder = write_source(tmp_path, [TEXTS[:2000], [], TEXTS[2000:2990]], held_out=["held", "out"])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[2990:])
    (folder / "src.chunk.03.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    made = ensure_shards(tmp_path, "src", tmp_path / "shards", workers=workers)
    assert made.train.tolist() == packed(TEXTS)
    assert made.val.tolist() == packed(["held", "out"])
    assert (made.training.documents, made.held_out.documents) == (3000, 2)
    assert made.training.bytes == sum(len(text.encode()) for text in TEXTS)
    assert folders(tmp_path) == [made.folder.name]
    at_once = ensure_shards(tmp_path, "src", tmp_path / "other")
    assert (at_once.training, at_once.held_out) == (made.training, made.held_out)
    assert at_once.key == made.key


def test_a_small_corpus_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_source(tmp_path, [TEXTS])
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    assert ensure_shards(tmp_path, "src", tmp_path / "shards", workers=4).train_tokens


def test_a_container_starts_no_more_workers_than_it_has_time_for(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees all cores of its machine."""
    write_source(tmp_path, [TEXTS])
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    monkeypatch.setattr(host, "cgroup_quota", lambda: 1.5)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started a process"))
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").train.tolist() == packed(TEXTS)


KILLED = """
import sys
from trainer.tokens import pieces, shards
shards.IN_PIECES_BYTES, pieces.PIECE_BYTES = 0, 200_000
sys.exit(shards.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_resumes_where_it_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    texts = [str(number) for number in range(200_000)]
    folder = write_source(tmp_path, [texts[:70_000], texts[70_000:]])
    command = ["--root-dir", str(tmp_path), "--source", "src", "--workers", str(workers)]
    command += ["--shards-dir", str(tmp_path / "shards"), "--output", str(tmp_path / "o.json")]
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, *command], cwd=ROOT, start_new_session=True
    )
    wait_until(lambda: len(list(tmp_path.glob("shards/*-pieces/*.json"))) >= 3, "three pieces")
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    finished = len(list(tmp_path.glob("shards/*-pieces/*.json")))

    made: list[pieces.Job] = []
    make_piece = pieces.make_piece
    monkeypatch.setattr(shards, "IN_PIECES_BYTES", 0)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 200_000)
    monkeypatch.setattr(pieces, "make_piece", lambda *all_of: made.append(1) or make_piece(*all_of))
    for path in folder.iterdir():  # moved about, the text is still the same
        os.utime(path, ns=(1, 1))
    shard = ensure_shards(tmp_path, "src", tmp_path / "shards", workers=1)
    total = finished + len(made)
    assert total == sum(-(-path.stat().st_size // 200_000) for path in folder.iterdir())
    assert finished < total
    assert f"reusing {finished} of {total} pieces" in capsys.readouterr().out
    assert shard.train.tolist() == packed(texts)
    assert shard.folder.name in folders(tmp_path)
    assert not list(tmp_path.glob("shards/*-pieces"))


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    worker = pieces.Worker(Encoding(TokenizerConfig()))
    process = worker._process
    process.stdin.close()  # type: ignore[union-attr]
    assert process.wait(PATIENCE_S) == 0
    worker.__exit__()


@pytest.mark.parametrize("workers", [1, 2])
def test_bad_text_is_named_with_its_line(tmp_path: Path, small_pieces: None, workers: int) -> None:
    folder = write_source(tmp_path, [TEXTS, TEXTS])
    path = folder / "src.chunk.01.jsonl"
    lines = path.read_text().splitlines()
    lines[2500] = '{"text": 7}'
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=r"01.jsonl: 1 problem\n  line 2501: found a number"):
        ensure_shards(tmp_path, "src", tmp_path / "shards", workers=workers)
    path.write_text("\n".join(lines[:2500]))
    done = ensure_shards(tmp_path, "src", tmp_path / "shards", workers=workers)
    assert done.train.tolist() == packed(TEXTS + TEXTS[:2500])


def test_a_worker_that_dies_is_an_error(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path, [TEXTS])
    monkeypatch.setattr(pieces.sys, "executable", "/bin/false")
    with pytest.raises(pieces.WorkerError, match="ended with exit code 1"):
        ensure_shards(tmp_path, "src", tmp_path / "shards", workers=2)


def test_pieces_of_changed_text_are_not_kept(
    tmp_path: Path, small_pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_source(tmp_path, [TEXTS])
    digest = shards.digest_files

    def digest_and_change(*given: object) -> list[str]:
        digests = digest(*given)  # type: ignore[arg-type]
        os.utime(folder / "src.chunk.00.jsonl", ns=(1, 1))
        return digests

    monkeypatch.setattr(shards, "digest_files", digest_and_change)
    with pytest.raises(ConfigError, match="the files changed while they were read"):
        ensure_shards(tmp_path, "src", tmp_path / "shards", workers=1)
    assert not list(tmp_path.glob("shards/*/*.bin"))


def test_a_piece_whose_record_is_none_is_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("")
    job = pieces.Job(Piece(path, 0, 0), 0, stat_file(path), tmp_path / "piece")
    job.tokens.write_bytes(b"\0" * 8)
    record = '{"documents": 1, "tokens": 4, "bytes": 2}'
    for text, is_finished in ((record, True), ("[" * 5000, False), (record[:-1], False)):
        (tmp_path / "piece.json").write_text(text)
        assert (job.result(2) is not None) == is_finished


def test_a_truncated_piece_is_made_again(tmp_path: Path) -> None:
    """As a power loss may leave it: three tokens of two bytes, of which one byte is lost."""
    piece = Piece(write_source(tmp_path, [["a"]]) / "src.chunk.00.jsonl")
    job = pieces.Job(piece, 1, stat_file(piece.path), tmp_path / "pieces" / "name")
    pieces.make_piece(job, Encoding(TokenizerConfig()), lambda read: None)
    part = job.result(2)
    assert part is not None
    assert (part.documents, part.tokens, part.bytes) == (1, 3, 1)
    os.truncate(job.tokens, 5)
    assert job.result(2) is None
    with pytest.raises(FileNotFoundError, match=r"name\.bin"):
        pieces.join_pieces([job], tmp_path / "joined", 2)


def test_two_processes_share_the_pieces_and_both_succeed(tmp_path: Path) -> None:
    texts = [str(number) for number in range(60_000)]
    write_source(tmp_path, [texts])
    command = [sys.executable, "-c", KILLED, "--root-dir", str(tmp_path), "--source", "src"]
    command += ["--workers", "1", "--shards-dir", str(tmp_path / "shards"), "--output"]
    running = [
        subprocess.Popen([*command, str(tmp_path / f"{index}.json")], cwd=ROOT)
        for index in range(3)
    ]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0, 0]
    assert len({(tmp_path / f"{index}.json").read_text() for index in range(3)}) == 1
    shard = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert shard.train.tolist() == packed(texts)
    assert [name for name in folders(tmp_path) if not name.endswith("-pieces")] == [
        shard.folder.name
    ]
