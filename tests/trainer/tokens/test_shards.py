"""Text files to token shards: content, reuse, and errors."""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.tokens.sources import packed, write_lines, write_megatron, write_source
from tests.waiting import PATIENCE_S
from trainer.problems import ConfigError
from trainer.tokens import packing, shards
from trainer.tokens.pieces import WorkerError
from trainer.tokens.shards import Shards, ensure_shards, main
from trainer.tokens.text_files import are_alike, describe_files, find_text_files

NOT_READ = "cannot be read: found "
TEXTS = ["one", "", "zwei: ä", "three\nlines\n", "x" * 3000, "last"]


def made(shards: Shards) -> int:
    """What changes when the shards are made again."""
    return (shards.folder / "train.bin").stat().st_ino


def complaint(root: Path, source: str = "src") -> str:
    with pytest.raises(ConfigError) as caught:
        ensure_shards(root, source, root / "shards")
    assert not list((root / "shards").glob(".making-*"))
    return str(caught.value)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
def test_documents_are_packed_in_order(tmp_path: Path, bos: bool, eos: bool) -> None:
    write_source(tmp_path, [TEXTS[:2], TEXTS[2:]], held_out=["held", "out"])
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards", None, bos, eos)
    assert shards.train.tolist() == packed(TEXTS, bos, eos)
    assert shards.val.tolist() == packed(["held", "out"], bos, eos)
    assert shards.training.bytes == sum(len(text.encode()) for text in TEXTS)
    assert (shards.val_tokens, shards.held_out.bytes) == (len(shards.val), 7)
    assert (shards.folder / "train.bin").read_bytes() == np.array(
        packed(TEXTS, bos, eos), "<u2"
    ).tobytes()


@settings(max_examples=25)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=12), data=st.data())
def test_the_split_into_files_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=4)))
    borders = [0, *cuts, len(texts)]
    files = [texts[a:b] for a, b in itertools.pairwise(borders)]
    whole, split = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("split")
    write_source(whole, [texts])
    folder = write_source(split, files)
    last = max(folder.glob("*.jsonl"), key=lambda path: (path.stat().st_size > 0, path))
    last.write_bytes(last.read_bytes().rstrip(b"\n"))  # editors leave the last newline out
    first, second = (ensure_shards(root, "src", root / "shards") for root in (whole, split))
    assert first.key == second.key
    assert first.train.tolist() == second.train.tolist()


def test_text_may_be_under_content_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [[]])
    lines = ['{"content": "a", "id": 1}', "", "   ", '{"text": "b", "content": "not this"}']
    (folder / "src.chunk.00.jsonl").write_text("\n".join(lines))
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert shards.train.tolist() == packed(["a", "b"])
    assert shards.training.documents == 2


def test_held_out_text_may_be_next_to_the_folder(tmp_path: Path) -> None:
    write_source(tmp_path, [["a"]])
    write_lines(tmp_path / "src.val.jsonl", ["beside"])
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").val.tolist() == packed(["beside"])


def test_held_out_text_is_never_trained_on(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [["a"]])
    write_lines(folder / "src.chunk.00.val.jsonl", ["held"])  # matches both patterns
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert shards.train.tolist() == packed(["a"])
    assert shards.val.tolist() == packed(["held"])


def test_without_held_out_text_there_is_no_validation(tmp_path: Path) -> None:
    write_source(tmp_path, [["a"]])
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert (shards.val_tokens, shards.val.shape) == (0, (0,))


def test_shards_are_made_once(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [TEXTS], ["v"])
    first = ensure_shards(tmp_path, "src", tmp_path / "shards")
    before = made(first)
    assert made(ensure_shards(tmp_path, "src", tmp_path / "shards")) == before
    for path in folder.iterdir():
        os.utime(path, ns=(1, 1))
    for _ in range(2):  # known by its content, then by its stat
        again = ensure_shards(tmp_path, "src", tmp_path / "shards")
        assert (again.key, made(again)) == (first.key, before)


def test_found_by_stat_without_reading_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(tmp_path, [TEXTS])
    key = ensure_shards(tmp_path, "src", tmp_path / "shards").key
    monkeypatch.setattr(
        "trainer.tokens.documents.open_lines", lambda path: pytest.fail(f"opened {path}")
    )
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").key == key


def test_shards_of_older_versions_are_found(tmp_path: Path) -> None:
    """By the key that they have always had; the training text's own is added where it is missing.

    Otherwise an update would tokenise all text again, and start all runs again.
    """
    text = write_source(tmp_path, [["a"]], held_out=["b"]) / "src.chunk.00.jsonl"
    digests = [hashlib.sha256(b'{"text": "%b"}\n' % name).hexdigest() for name in (b"a", b"b")]
    encoding = '"add_bos": true, "add_eos": true, "layout": 1, "tokenizer": "bytes bos=256 eos=257"'
    training = f'{{{encoding}, "train": "{digests[0]}"'
    keys = [f'{training}, "val": "{digests[1]}"}}', f"{training}}}"]
    known = [hashlib.sha256(key.encode()).hexdigest()[:16] for key in keys]
    first = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert [first.key, first.training_key] == known
    manifest = first.folder / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: values[key] for key in values if key != "training_key"}))
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").training_key == ""
    os.utime(text, (1, 1))
    found = ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert (found, made(found)) == (first, made(first))
    assert json.loads(manifest.read_text())["training_key"] == known[1]


def test_shards_in_a_folder_that_cannot_be_written_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of text with new times."""
    text = write_source(tmp_path, [["a"]]) / "src.chunk.00.jsonl"
    first = ensure_shards(tmp_path, "src", tmp_path / "shards")
    os.utime(text, (1, 1))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(shards, "write_manifest", refuse)
    assert ensure_shards(tmp_path, "src", tmp_path / "shards") == first


def test_a_change_of_anything_that_matters_changes_the_key(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [["abc"]], ["v"])
    shards_dir = tmp_path / "shards"
    keys = [ensure_shards(tmp_path, "src", shards_dir).key]
    keys.append(ensure_shards(tmp_path, "src", shards_dir, add_bos=False).key)
    keys.append(ensure_shards(tmp_path, "src", shards_dir, add_eos=False).key)
    write_lines(folder / "src.chunk.00.jsonl", ["abd"])
    keys.append(ensure_shards(tmp_path, "src", shards_dir).key)
    write_lines(folder / "src.val.jsonl", ["w"])
    keys.append(ensure_shards(tmp_path, "src", shards_dir).key)
    (folder / "src.val.jsonl").unlink()
    keys.append(ensure_shards(tmp_path, "src", shards_dir).key)
    assert len(set(keys)) == len(keys)
    assert {path.name for path in shards_dir.iterdir()} == {f"src-bytes-{key}" for key in keys}


@pytest.mark.parametrize("name", ["train.bin", "manifest.json"])
def test_corrupt_shards_are_made_again(tmp_path: Path, name: str) -> None:
    write_source(tmp_path, [TEXTS])
    torn = ensure_shards(tmp_path, "src", tmp_path / "shards").folder / name
    torn.write_bytes(torn.read_bytes()[:-2])
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").train.tolist() == packed(TEXTS)
    assert [path.name[0] for path in (tmp_path / "shards").iterdir()] == ["s"]


@pytest.mark.parametrize("content", [b'{"a":' * 5000, b"\xff", b"[]", b'{"key": "\\ud800"}'])
def test_a_manifest_that_is_none_is_made_again(tmp_path: Path, content: bytes) -> None:
    write_source(tmp_path, [TEXTS])
    manifest = ensure_shards(tmp_path, "src", tmp_path / "shards").folder / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(content)
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").train.tolist() == packed(TEXTS)
    assert json.loads(manifest.read_bytes())["key"] == json.loads(whole)["key"]


def test_leftovers_of_a_dead_process_are_removed_after_a_day(tmp_path: Path) -> None:
    write_source(tmp_path, [TEXTS])
    old, fresh = (tmp_path / "shards" / f".making-{name}" for name in ("old", "fresh"))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "train.bin").write_bytes(b"x")
    for path in (old / "train.bin", old):
        os.utime(path, (time.time() - 90_000,) * 2)
    ensure_shards(tmp_path, "src", tmp_path / "shards")
    assert not old.exists() and fresh.exists()


def test_two_concurrent_processes_both_succeed(tmp_path: Path) -> None:
    texts = [f"document {index} " * 500 for index in range(300)]
    write_source(tmp_path, [texts[:150], texts[150:]])
    outputs = [tmp_path / f"{index}.json" for index in range(3)]
    command = [sys.executable, "-m", "trainer.tokens.shards", "--root-dir", str(tmp_path)]
    command += ["--source", "src", "--shards-dir", str(tmp_path / "shards"), "--output"]
    running = [subprocess.Popen([*command, str(output)]) for output in outputs]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0, 0]
    assert len({output.read_text() for output in outputs}) == 1
    (folder,) = (tmp_path / "shards").iterdir()
    assert np.fromfile(folder / "train.bin", "<u2").tolist() == packed(texts)


@pytest.mark.parametrize("error", [FileNotFoundError("a piece"), WorkerError("killed")])
def test_a_process_that_is_overtaken_takes_the_shards_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Which has removed the pieces that it still reads. Without another, that is an error."""
    write_source(tmp_path, [["a"]])
    shards_dir, pack_halves = tmp_path / "shards", shards._pack_halves

    def fail(*_: object) -> NoReturn:
        raise error

    def be_overtaken(*_: object) -> NoReturn:
        monkeypatch.setattr(shards, "_pack_halves", pack_halves)
        ensure_shards(tmp_path, "src", shards_dir)
        raise error

    monkeypatch.setattr(shards, "_pack_halves", fail)
    with pytest.raises(type(error)):
        ensure_shards(tmp_path, "src", shards_dir)
    monkeypatch.setattr(shards, "_pack_halves", be_overtaken)
    found = ensure_shards(tmp_path, "src", shards_dir)
    assert found.train.tolist() == packed(["a"])
    assert list(shards_dir.iterdir()) == [found.folder]


def test_text_that_changes_while_it_is_read_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_source(tmp_path, [TEXTS])
    monkeypatch.setattr(
        "trainer.tokens.shards._content_key",
        lambda *_: write_lines(folder / "src.chunk.00.jsonl", ["new"]) or "0" * 16,
    )
    assert "the files changed while they were read" in complaint(tmp_path)


def test_a_missing_folder_is_reported_with_the_existing_ones(tmp_path: Path) -> None:
    write_source(tmp_path, [["a"]], source="wiki")
    message = complaint(tmp_path)
    assert message.startswith(f"{tmp_path / 'src'}: 1 problem\n  no such folder")
    assert "wiki" in message and "src.chunk.00.jsonl" in message


def test_a_folder_without_chunks_is_reported_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert "found nothing; expected files named like src.chunk.00.jsonl" in complaint(tmp_path)
    (tmp_path / "src" / "data.jsonl").touch()
    assert "found data.jsonl; expected" in complaint(tmp_path)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'{"text": "a"', "not valid JSON: Expecting ',' delimiter at column 13;"),
        (b"plain text", "not valid JSON: Expecting value at column 1"),
        (b'{"text": "\xff"}', "not UTF-8 text: invalid start byte"),
        (b'{"title": "a", "id": 7}', "found the keys 'title', 'id'"),
        (b"{}", "found the keys none"),
        (b'{"text": 7}', "found a number under 'text'"),
        (b'{"content": null}', "found null under 'content'"),
        (b'["a"]', "found a list"),
        (b"[" * 100_000, "not readable JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, found: str) -> None:
    folder = write_source(tmp_path, [["good"], []])
    path = folder / "src.chunk.01.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    message = complaint(tmp_path)
    assert message.startswith(f"{path}: 1 problem\n  line 3: {found}")
    assert "expected a JSON object with the document's text, a string, under 'text'" in message


def test_a_source_without_documents_is_rejected(tmp_path: Path) -> None:
    write_source(tmp_path, [[]])
    assert "found no documents to train on; expected at least one" in complaint(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [["a"]])
    (folder / "src.chunk.01.jsonl").symlink_to(folder / "nowhere")
    assert "src.chunk.01.jsonl: 1 problem\n  cannot be read: No such file" in complaint(tmp_path)
    (folder / "src.chunk.01.jsonl").unlink()
    (folder / "src.chunk.01.jsonl").mkdir()
    assert "cannot be read: Is a directory" in complaint(tmp_path)


def test_only_files_are_read(tmp_path: Path) -> None:
    """Reading a FIFO waited forever, without a word; a device may have no end."""
    folder = write_source(tmp_path, [["a"]])
    chunk, held_out = folder / "src.chunk.01.jsonl", tmp_path / "src.val.jsonl"
    os.mkfifo(tmp_path / "fifo")
    chunk.symlink_to(tmp_path / "fifo")
    assert complaint(tmp_path) == f"{chunk}: 1 problem\n  {NOT_READ}a FIFO; expected a file"
    chunk.unlink()
    held_out.symlink_to("/dev/zero")
    assert complaint(tmp_path) == f"{held_out}: 1 problem\n  {NOT_READ}a device; expected a file"
    held_out.unlink()
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind("src.val.jsonl")
    assert f"{NOT_READ}a socket" in complaint(tmp_path)
    os.mkfifo(folder / "state.json")  # which describes a dataset
    assert f"state.json: 1 problem\n  {NOT_READ}a FIFO" in complaint(tmp_path)
    write_megatron(tmp_path / "ids" / "a.bin", [[[1, 2]]])
    (tmp_path / "ids" / "a.idx").unlink()
    os.mkfifo(tmp_path / "ids" / "a.idx")
    assert f"a.idx: 1 problem\n  {NOT_READ}a FIFO" in complaint(tmp_path, "ids")


def read_output(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the command's output says of the shards, and of the files they were made of."""
    described = json.loads(path.read_text())
    return described, described.pop("made_of")


def swap(root: Path, change: str) -> None:
    """Change the text of `root`/src, a link to one of `root`/sets, keeping its times or not."""
    chunk = root / "src" / "src.chunk.00.jsonl"
    mtime_ns = chunk.stat().st_mtime_ns
    if change == "larger":
        write_lines(chunk, TEXTS)
    elif change == "older":
        mtime_ns = 1
    elif change == "another link":
        (root / "src").unlink()
        (root / "src").symlink_to("sets/2")
    elif change == "another name":
        chunk = chunk.rename(chunk.with_name("src.chunk.01.jsonl"))
    elif change == "one more":
        write_lines(chunk.with_name("src.chunk.01.jsonl"), ["b"])
    os.utime(chunk, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize(
    ("change", "alike", "alike_elsewhere"),
    [
        ("none", True, True),
        ("larger", False, False),
        ("older", False, True),
        ("another link", False, True),
        ("another name", False, False),
        ("one more", False, False),
    ],
)
def test_files_are_recognised(
    tmp_path: Path, change: str, alike: bool, alike_elsewhere: bool
) -> None:
    """Both sets have the same times and sizes. In a copy, times and links may be others."""
    before = tmp_path / "before"
    for name, text in (("1", "a"), ("2", "b")):
        folder = write_source(before / "sets", [[text]], source=name)
        chunk = (folder / f"{name}.chunk.00.jsonl").rename(folder / "src.chunk.00.jsonl")
        os.utime(chunk, ns=(5, 5))
    (before / "src").symlink_to("sets/1")
    first = facts(before)
    shutil.copytree(before, tmp_path / "copy", symlinks=True)
    swap(tmp_path / "copy", change)
    assert are_alike(first, facts(tmp_path / "copy")) == alike_elsewhere
    swap(before, change)
    assert are_alike(first, facts(before)) == alike


def facts(root: Path) -> dict[str, Any]:
    return describe_files(root, find_text_files(root, "src").on_disk)


def test_the_command_writes_the_same_for_the_same_text(tmp_path: Path) -> None:
    folder = write_source(tmp_path, [TEXTS], ["v"])
    output = tmp_path / "deep" / "src.json"
    command = ["--root-dir", str(tmp_path), "--source", "src", "--output", str(output)]
    command += ["--shards-dir", str(tmp_path / "shards"), "--tokenizer", "bytes"]
    assert main(command) == 0
    described, made_of = read_output(output)
    assert made_of["root"] == str(tmp_path)
    assert [file[:3] for file in made_of["files"]] == [
        [f"src/{name}", f"src/{name}", (folder / name).stat().st_size]
        for name in ("src.chunk.00.jsonl", "src.val.jsonl")
    ]
    os.utime(folder / "src.val.jsonl", ns=(1, 1))
    assert main(command) == 0
    made_of["files"][1][3] = 1
    assert read_output(output) == (described, made_of)
    assert described["train_tokens"] == len(packed(TEXTS))
    assert described["documents"] == len(TEXTS) + 1
    assert Path(described["folder"], "train.bin").exists()
    assert main([*command, "--no-add-bos", "--no-add-eos"]) == 0
    assert json.loads(output.read_text())["train_tokens"] == described["train_bytes"]


def test_the_command_reports_a_mistake_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.tokens.shards", "--root-dir", str(tmp_path)]
    command += ["--source", "src", "--shards-dir", str(tmp_path), "--output", "unused.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'src'}: 1 problem\n  no such folder")
    assert "Traceback" not in done.stderr


def test_the_command_tells_of_a_worker_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path, [["text"]])

    def fail(*_: object) -> NoReturn:
        raise WorkerError("src: a process was killed")

    monkeypatch.setattr(shards, "ensure_shards", fail)
    folders = ["--root-dir", str(tmp_path), "--shards-dir", str(tmp_path / "shards")]
    assert main([*folders, "--source", "src"]) == 1
    assert capsys.readouterr().err == "src: a process was killed\n"


def test_tokens_are_synced_before_they_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced at their full size in the end, whatever was synced on the way; a failure is told."""
    write_source(tmp_path, [["x" * 3_000_000, "y" * 3_000_000]])
    sizes: dict[int, int] = {}
    fsync = os.fsync

    def note(descriptor: int) -> None:
        stat = os.fstat(descriptor)
        fsync(descriptor)
        sizes[stat.st_ino] = stat.st_size

    monkeypatch.setattr(os, "fsync", note)
    shards = ensure_shards(tmp_path, "src", tmp_path / "shards")
    stat = (shards.folder / "train.bin").stat()
    assert sizes[stat.st_ino] == stat.st_size == 2 * shards.train_tokens

    calls = itertools.count()

    def fail_once(descriptor: int) -> None:  # as Linux does: the next call has forgotten it
        if next(calls) == 0:
            raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="the disk is full"):
        ensure_shards(tmp_path, "src", tmp_path / "others")
    assert not list((tmp_path / "others").iterdir())


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_full_disk_is_named_and_nothing_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    in_pieces: bool,
) -> None:
    write_source(tmp_path, [["x" * 2_000_000] * 3])
    write, room = packing._SyncedFile.write, [5_000_000]

    def fill_up(file: packing._SyncedFile, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(number, os.strerror(number))
        written = write(file, data[: room[0]])
        room[0] -= written
        return written

    if in_pieces:
        monkeypatch.setattr(shards, "IN_PIECES_BYTES", 0)
    monkeypatch.setattr(packing._SyncedFile, "write", fill_up)
    command = ["--root-dir", str(tmp_path), "--source", "src", "--output", str(tmp_path / "o.json")]
    assert main([*command, "--shards-dir", str(tmp_path / "shards"), "--workers", "1"]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path / 'shards'}: 1 problem\n  data.shards_dir: cannot be written: "
        f"{os.strerror(number)}; expected a disk with room for the tokens\n"
    )
    left = [path for path in (tmp_path / "shards").rglob("*") if path.is_file()]
    assert (left, (tmp_path / "o.json").exists()) == ([], False)
    monkeypatch.undo()  # there is room again
    assert ensure_shards(tmp_path, "src", tmp_path / "shards").training.documents == 3


def test_a_file_that_the_system_refuses_to_extend_is_named_by_a_worker_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real error of write(2), in the tokenising process."""
    write_source(tmp_path, [["x" * 3_000_000]])
    monkeypatch.setattr(shards, "IN_PIECES_BYTES", 0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, before[1]))
    try:
        with pytest.raises(
            ConfigError, match=r"shards: 1 problem\n.*data.shards_dir: .* too large"
        ):
            ensure_shards(tmp_path, "src", tmp_path / "shards", workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "shards").rglob("*") if path.is_file()]


def test_an_output_that_cannot_be_written_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path, [["a"]])
    (tmp_path / "file").touch()
    command = ["--root-dir", str(tmp_path), "--source", "src", "--shards-dir", f"{tmp_path}/shards"]
    assert main([*command, "--output", str(tmp_path / "file" / "deep" / "o.json")]) == 1
    error = capsys.readouterr().err
    assert error == f"{tmp_path}/file/deep/o.json: cannot be written: Not a directory\n"
