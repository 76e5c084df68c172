import io
import json
import os
import pickle
import time
import zlib
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.folder.attack import Attack
from tests.trainer.small_runs import ALONE, SmallRun, steps_in
from trainer.config import CheckpointConfig
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import (
    BLOCK_BYTES,
    CheckpointError,
    Position,
    find_steps,
    fingerprint_of,
    of_step,
    read_state,
    write_state,
)
from trainer.folder.checkpoint_tensors import ModelReader, copy_to_cpu, write_tensors
from trainer.folder.initial_weights import find

START = Position(0, 0.0, "trajectory")


def test_a_resumed_run_is_bitwise_equal(tmp_path: Path) -> None:
    run, other = SmallRun(), SmallRun(seed=1)
    run.steps(3)
    run.save(tmp_path, 3, "dump")
    expected = run.steps(3)
    assert checkpoint.find_newest(tmp_path, START, ALONE) == Position(3, 4.5, "trajectory")
    checkpoint.load(of_step(tmp_path, 3), other.model, other.optimizer)
    assert other.steps(3) == expected


def test_another_trajectory_is_not_resumed(tmp_path: Path) -> None:
    SmallRun().save(tmp_path, 3, "dump")
    assert checkpoint.find_newest(tmp_path, Position(0, 0.0, "another"), ALONE) is None
    assert find_steps(tmp_path, "another") == []
    assert find_steps(tmp_path, "trajectory") == find_steps(tmp_path) == [3]


def test_a_checkpoint_of_an_older_version_may_be_of_any_run() -> None:
    """It names none; so does a run whose run.json is one of an older version."""
    for run, named, same in (
        ("a", "a", True),
        ("a", "b", False),
        ("a", None, True),
        (None, "b", True),
    ):
        facts = {"trajectory": "t", "run": named}
        assert Position(0, 0.0, "t", run=run).is_of(facts) is same
        assert not Position(0, 0.0, "other", run=run).is_of(facts)
    assert Position(0, 0.0, "t", run="a").is_of({"trajectory": "t"})


def test_an_incomplete_checkpoint_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun()
    for step in (1, 2, 3):
        run.save(tmp_path, step, "dump")
    data = next((tmp_path / "0000000003").glob("*.distcp"))
    os.truncate(data, data.stat().st_size - 1)
    (tmp_path / "0000000002" / "state.json").write_text("{")
    (tmp_path / ".saving-0000000004").mkdir()
    assert find_steps(tmp_path) == [1]
    assert "0000000003: truncated files, skipped" in capsys.readouterr().out
    newest = checkpoint.find_newest(tmp_path, START, ALONE)
    assert newest is not None
    assert newest.step == 1
    assert capsys.readouterr().out.count("warning") == 2


def test_a_changed_checkpoint_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One byte of the tensors differs; the size is the same."""
    run = SmallRun()
    for step in (1, 2):
        run.save(tmp_path, step, "dump")
    data = next((tmp_path / "0000000002").glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    newest = checkpoint.find_newest(tmp_path, START, ALONE)
    assert newest is not None
    assert newest.step == 1
    assert f"{data.name} was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 2,', '"step": 9,'),
        ('"trajectory": "trajectory"', '"trajectory": "trajectorz"'),
        ('"trajectory"', '"trajectori"'),
        ('"elapsed_s": 3.0', '"elapsed_s": null'),
        ('"kinds"', '"kind"'),
        ('"files"', '"fi1es"'),
        ("{", "[{"),
    ],
)
def test_a_changed_state_is_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    """Valid JSON or not, with the right keys or not: the previous one is used, with a warning."""
    run = SmallRun()
    for step in (1, 2):
        run.save(tmp_path, step, "dump")
    state = tmp_path / "0000000002" / "state.json"
    text = state.read_text()
    assert old in text
    state.write_text(text.replace(old, new, 1) + "]" * (new == "[{"))
    newest = checkpoint.find_newest(tmp_path, START, ALONE)
    assert newest is not None
    assert newest.step == 1
    assert "warning: " in capsys.readouterr().out


def test_checksums_are_those_that_older_checkpoints_have(tmp_path: Path) -> None:
    """With another kind of sum, an update would skip all checkpoints as changed."""
    file = tmp_path / "file"
    file.write_bytes(b"123456789")
    assert fingerprint_of(file) == {"size": 9, "crc32": 0xCBF43926}  # CRC-32's check value
    content = os.urandom(2 * BLOCK_BYTES + 3)
    file.write_bytes(content)
    assert fingerprint_of(file) == {"size": len(content), "crc32": zlib.crc32(content)}
    known = zlib.crc32(b'{"files": {}, "kinds": ["dump"], "step": 3}')
    state = f'{{"step": 3, "kinds": ["dump"], "files": {{}}, "crc32": {known}}}'
    (tmp_path / "state.json").write_text(state)
    facts = {"step": 3, "kinds": ["dump"], "files": {}}
    assert read_state(tmp_path) == facts
    write_state(tmp_path, facts)
    assert json.loads((tmp_path / "state.json").read_text()) == json.loads(state)


def test_a_save_in_the_background_holds_the_state_of_its_step(tmp_path: Path) -> None:
    run, other = SmallRun(), SmallRun(seed=1)
    run.steps(2)
    saver = checkpoint.Saver(tmp_path, CheckpointConfig(), ALONE)
    saver.save(Position(2, 1.0, "trajectory"), ["dump"], run.model, run.optimizer)
    expected = run.steps(3)  # while it is written
    saver.wait()
    checkpoint.load(of_step(tmp_path, 2), other.model, other.optimizer)
    assert other.steps(3) == expected


def test_a_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, saver, seen = SmallRun(), checkpoint.Saver(tmp_path, CheckpointConfig(), ALONE), []

    def write(state: dict[str, Any], position: Position, kinds: list[str]) -> None:
        seen.append(("begins", position.step))
        time.sleep(0.05)
        seen.append(("ends", position.step))

    monkeypatch.setattr(saver, "_write", write)
    for step in (1, 2):
        saver.save(replace(START, step=step), ["dump"], run.model, run.optimizer)
    saver.wait()
    assert seen == [("begins", 1), ("ends", 1), ("begins", 2), ("ends", 2)]


def test_a_copy_of_a_state_shares_no_memory_with_it() -> None:
    """Training goes on while the copy is written."""
    weight = torch.nn.Parameter(torch.ones(2))
    copied = copy_to_cpu({"model": {"weight": weight}, "step": 3}, torch.device("cpu"))
    with torch.no_grad():
        weight.fill_(7.0)
    assert copied["model"]["weight"].tolist() == [1.0, 1.0]
    assert not copied["model"]["weight"].requires_grad
    assert copied["step"] == 3


def test_a_folder_without_an_index_is_no_checkpoint(tmp_path: Path) -> None:
    for read in (ModelReader(tmp_path).shapes, ModelReader(tmp_path).read_all):
        with pytest.raises(CheckpointError, match=f"{tmp_path}: cannot be read: .*No such file"):
            read()


def test_a_failed_background_save_is_raised_by_the_next_call(tmp_path: Path) -> None:
    run = SmallRun()
    folder = tmp_path / "checkpoints"
    saver = checkpoint.Saver(folder, CheckpointConfig(), ALONE)
    folder.rmdir()
    folder.write_text("")
    saver.save(Position(2, 1.0, "trajectory"), ["dump"], run.model, run.optimizer)
    with pytest.raises(NotADirectoryError):
        saver.wait()
    saver.wait()  # once


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    run, other = SmallRun(), SmallRun(seed=1)
    run.save(tmp_path, 1, "dump")
    run.save(tmp_path, 4, "dump")
    run.steps(3)
    for path, loaded in ((tmp_path, True), (tmp_path / "0000000001", True)):
        other.model.init_weights(1)
        find(path).load(other.model)
        fresh = SmallRun()
        for name, weight in fresh.model.state_dict().items():
            assert torch.equal(other.model.state_dict()[name], weight) == loaded


@pytest.mark.parametrize(
    ("dump", "evals", "left"),
    [
        (1, 1, [3, 4]),
        (2, 1, [2, 3, 4]),
        (-1, 1, [2, 3, 4]),
        (1, 0, [1, 3, 4]),
        (0, 0, [1, 2, 3, 4]),
    ],
)
def test_keep_is_honoured_for_each_kind(
    tmp_path: Path, dump: int, evals: int, left: list[int]
) -> None:
    run = SmallRun()
    for step, kind in ((1, "eval"), (2, "dump"), (3, "eval"), (4, "dump")):
        run.save(tmp_path, step, kind)
    config = CheckpointConfig.model_validate({"dump": {"keep": dump}, "eval": {"keep": evals}})
    checkpoint.prune(tmp_path, config, replace(START, step=4))
    assert steps_in(tmp_path) == left


def test_a_damaged_checkpoint_takes_no_later_ones_place(tmp_path: Path) -> None:
    """The run resumes before it, and what it saves meanwhile is all that it has."""
    run = SmallRun()
    for step in (5, 10):
        run.save(tmp_path, step, "dump")
    data = next((tmp_path / "0000000010").glob("*.distcp"))
    data.write_bytes(bytes(data.stat().st_size))
    saver = checkpoint.Saver(tmp_path, CheckpointConfig(async_save=False), ALONE)
    for step in (7, 9, 10):
        saver.save(replace(START, step=step), ["dump"], run.model, run.optimizer)
        found = checkpoint.find_newest(tmp_path, START, ALONE)
        assert found is not None
        assert found.step == step
    assert steps_in(tmp_path) == [10]


def index_of_another_python(index: Path, paths: str) -> bytes:
    """Return an index as it is written by a Python whose paths are pickled from module `paths`."""
    metadata = pickle.loads(index.read_bytes())
    # Protocol 2 names a class in plain text, at any length.
    written, name = pickle.dumps(metadata, protocol=2), b"c%b\nPosixPath\n"
    here = name % type(index).__module__.encode()
    assert written.count(here) == 1
    return written.replace(here, name % paths.encode())


@pytest.mark.parametrize("paths", ["pathlib", "pathlib._local", "pathlib._moved_again"])
def test_an_index_of_any_python_version_is_read(tmp_path: Path, paths: str) -> None:
    """3.11, 3.12 and 3.14 pickle a path from pathlib, 3.13 from pathlib._local."""
    run, other = SmallRun(), SmallRun(seed=1)
    run.steps(2)
    run.save(tmp_path, 2, "dump")
    index = tmp_path / "0000000002" / ".metadata"
    index.write_bytes(index_of_another_python(index, paths))
    checkpoint.load(of_step(tmp_path, 2), other.model, other.optimizer)
    assert other.steps(3) == run.steps(3)


class EarlyPickler(pickle._Pickler):
    """Pickles members of enums as Python 3.11.2 does."""

    def reducer_override(self, value: object) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


@pytest.mark.parametrize("protocol", [2, 4])
def test_an_index_of_an_early_python_3_11_is_read(tmp_path: Path, protocol: int) -> None:
    run, other = SmallRun(), SmallRun(seed=1)
    run.steps(2)
    run.save(tmp_path, 2, "dump")
    index = tmp_path / "0000000002" / ".metadata"
    written = io.BytesIO()
    EarlyPickler(written, protocol).dump(pickle.loads(index.read_bytes()))
    assert b"getattr" in written.getvalue()
    index.write_bytes(written.getvalue())
    checkpoint.load(of_step(tmp_path, 2), other.model, other.optimizer)
    assert other.steps(3) == run.steps(3)


def test_an_index_has_no_attributes_of_its_parts(tmp_path: Path) -> None:
    run = SmallRun()
    run.save(tmp_path, 1, "dump")
    code = pickle.dumps(GetsAttribute())
    (tmp_path / "0000000001" / ".metadata").write_bytes(code)
    with pytest.raises(CheckpointError, match="asks for '__subclasses__' of what is no memory"):
        checkpoint.load(of_step(tmp_path, 1), run.model, run.optimizer)


class GetsAttribute:
    """What takes an attribute of a class when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[object, str]]:
        return getattr, (torch.Size, "__subclasses__")


@pytest.mark.parametrize(
    "named", ["pathlib\nos.mkdir", "pathlib._local\nos", "pathlib_\nPosixPath", "torch\nload"]
)
def test_an_index_may_only_name_its_parts(tmp_path: Path, named: str) -> None:
    run = SmallRun()
    run.save(tmp_path, 1, "dump")
    (tmp_path / "0000000001" / ".metadata").write_bytes(f"c{named}\n.".encode())
    with pytest.raises(CheckpointError, match="which does not belong in one"):
        checkpoint.load(of_step(tmp_path, 1), run.model, run.optimizer)


def by_another_name(folder: Path, module: str, name: str) -> bytes:
    """Return a pickle of protocol 4 that calls what a module knows by a dotted name."""
    strings = [module, name, str(folder)]
    module, name, folder_name = (b"\x8c%c%b" % (len(s), s.encode()) for s in strings)
    return b"\x80\x04" + module + name + b"\x93" + folder_name + b"\x85R."


@pytest.mark.parametrize("module", ["filesystem", "metadata"])
@pytest.mark.parametrize("name", [None, "os.mkdir"])
def test_an_index_that_names_code_is_not_executed(
    tmp_path: Path, module: str, name: str | None
) -> None:
    target, run = tmp_path / "executed", SmallRun()
    run.save(tmp_path, 1, "dump")
    code = pickle.dumps(Attack(target))
    if name is not None:
        code = by_another_name(target, f"torch.distributed.checkpoint.{module}", name)
    (tmp_path / "0000000001" / ".metadata").write_bytes(code)
    with pytest.raises(CheckpointError, match="mkdir, which does not belong in one"):
        checkpoint.load(of_step(tmp_path, 1), run.model, run.optimizer)
    assert not target.exists()


def test_a_weight_that_the_index_calls_an_object_is_not_unpickled(tmp_path: Path) -> None:
    """torch reads an object by plain pickle, and the index says what is one."""
    target, run = tmp_path / "executed", SmallRun()
    model = {**run.model.state_dict(), "norm.weight": Attack(target)}
    state = {"model": model, "optimizer": run.optimizer.state_dict()}
    write_tensors(state, tmp_path / "0000000001", None)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not a tensor"):
        checkpoint.load(of_step(tmp_path, 1), run.model, run.optimizer)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is not a tensor"):
        checkpoint.load_weights(of_step(tmp_path, 1))
    assert not target.exists()


def test_due_follows_the_settings() -> None:
    config = CheckpointConfig.model_validate({"dump": {"every": 4}, "eval": {"every": 6}})
    found = {step: checkpoint.due(config, step, 13) for step in range(1, 14)}
    assert {step: kinds for step, kinds in found.items() if kinds} == {
        4: ["dump"],
        6: ["eval"],
        8: ["dump"],
        12: ["dump", "eval"],
        13: ["dump"],
    }
    assert checkpoint.due(None, 4, 4) == []


def test_state_says_what_the_checkpoint_is(tmp_path: Path) -> None:
    SmallRun().save(tmp_path, 5, "dump", "eval")
    state = json.loads((tmp_path / "0000000005" / "state.json").read_text())
    assert state["step"] == 5
    assert state["kinds"] == ["dump", "eval"]
