"""What a run does in its folder, and its run.json."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.small_runs import SmallRun, make_summary, run_config, save_now
from trainer.config import RunConfig
from trainer.folder import run_file
from trainer.folder.checkpoint_state import Position
from trainer.folder.run_file import Lock, RunFile, find_summary
from trainer.folder.run_folder import (
    bring_back,
    choose_action,
    is_completed,
    saved_by,
    set_aside,
    set_records_aside,
)

CONTENT, TRAINING = {"text": "abc"}, {"text": "ab"}


def write_account(folder: Path, config: RunConfig, status: str, gpus: int = 1) -> None:
    summary = make_summary(
        status=status,
        fingerprint=config.fingerprint(gpus),
        trajectory=config.trajectory(gpus),
        content=CONTENT,
        training_content=TRAINING,
    )
    (folder / "run.json").write_text(summary.to_json())


def choose(
    folder: Path,
    config: RunConfig,
    content: dict[str, str] = CONTENT,
    training_content: dict[str, str] = TRAINING,
) -> str:
    return choose_action(folder, config, 1, find_summary(folder), content, training_content)


def save(folder: Path, config: RunConfig, content: dict[str, str] | None = None) -> None:
    """Save a checkpoint of step 2."""
    run, trajectory = SmallRun(), config.trajectory(1)
    position = Position(2, 1.0, trajectory, content=content)
    save_now(folder, position, ["dump"], run.model, run.optimizer)


@pytest.mark.parametrize(
    ("status", "changes", "expected"),
    [
        ("completed", {}, "done"),
        ("completed", {"distributed": {"compile": True}}, "start"),
        ("running", {}, "resume"),
        ("failed", {}, "resume"),
        ("preempted", {"distributed": {"compile": True}}, "resume"),
        ("preempted", {"steps": 20}, "start"),
    ],
)
def test_the_action_depends_on_run_json(
    tmp_path: Path, status: str, changes: dict[str, object], expected: str
) -> None:
    write_account(tmp_path, run_config(tmp_path), status)
    assert choose(tmp_path, run_config(tmp_path, **changes)) == expected
    assert is_completed(tmp_path) is (status == "completed")


def test_a_run_starts_in_an_empty_folder(tmp_path: Path) -> None:
    assert choose(tmp_path, run_config(tmp_path)) == "start"
    (tmp_path / "run.json").write_text("{torn")
    assert choose(tmp_path, run_config(tmp_path)) == "start"
    assert not is_completed(tmp_path)


def test_changed_text_makes_a_different_run(tmp_path: Path) -> None:
    write_account(tmp_path, run_config(tmp_path), "completed")
    changed = {"text": "changed"}
    assert choose(tmp_path, run_config(tmp_path), changed, changed) == "start"


@pytest.mark.parametrize(("status", "expected"), [("completed", "done"), ("failed", "resume")])
def test_changed_held_out_text_is_only_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: str, expected: str
) -> None:
    write_account(tmp_path, run_config(tmp_path), status)
    assert choose(tmp_path, run_config(tmp_path), {"text": "changed"}) == expected
    said = f"warning: {tmp_path}: the held-out text has changed since the run began\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("saved", "changes", "expected"),
    [
        (TRAINING, {}, "resume"),
        (None, {}, "resume"),  # as older versions save
        ({"text": "changed"}, {}, "start"),
        (TRAINING, {"steps": 20}, "start"),
    ],
)
def test_without_run_json_the_checkpoints_decide(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    saved: dict[str, str] | None,
    changes: dict[str, object],
    expected: str,
) -> None:
    save(tmp_path / "checkpoints", run_config(tmp_path), saved)
    capsys.readouterr()
    assert choose(tmp_path, run_config(tmp_path, **changes)) == expected
    said = f"warning: {tmp_path}: run.json cannot be read; resuming without it\n"
    assert capsys.readouterr().out == (said if expected == "resume" else "")


def test_where_a_run_saves_stands_in_its_own_files(tmp_path: Path) -> None:
    config = run_config(tmp_path, checkpoint={"path": str(tmp_path / "elsewhere")})
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    assert saved_by(tmp_path) == (tmp_path / "elsewhere", None)
    write_account(tmp_path, config, "failed")
    assert saved_by(tmp_path) == (tmp_path / "elsewhere", config.trajectory(1))


def write_run(folder: Path, config: RunConfig, status: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_account(folder, config, status)
    (folder / "run.yaml").write_text(config.to_yaml())
    (folder / "metrics.jsonl").write_text(f"of {config.steps} steps")
    (folder / "checkpoints").mkdir()


def back(folder: Path, config: RunConfig) -> bool:
    return bring_back(folder, config, 1, CONTENT, TRAINING)


def test_a_run_that_was_set_aside_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A move that is interrupted leaves no run.json, so no run that looks complete."""
    first, second = (run_config(tmp_path, steps=steps) for steps in (10, 20))
    write_run(tmp_path, first, "completed")
    set_aside(tmp_path)
    write_run(tmp_path, second, "completed")
    assert not back(tmp_path, run_config(tmp_path, steps=30))
    moved, replace = [], Path.replace

    def note(path: Path, target: Path) -> Path:
        moved.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", note)
    assert back(tmp_path, first)
    earlier, old = (tmp_path / "superseded" / number for number in "12")
    names = [path.name for path in moved if path.parent == earlier]
    assert (names[0], names[-1], len(names)) == ("run.yaml", "run.json", 4)
    assert (tmp_path / "metrics.jsonl").read_text() == "of 10 steps"
    assert (old / "metrics.jsonl").read_text() == "of 20 steps"
    assert not earlier.exists()
    assert choose(tmp_path, first) == "done"


def test_an_incomplete_run_stays_aside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_config(tmp_path)
    write_run(tmp_path, config, "failed")
    set_aside(tmp_path)
    save(tmp_path / "superseded" / "2" / "checkpoints", config, TRAINING)  # without a run.json
    capsys.readouterr()
    assert not back(tmp_path, config)
    assert capsys.readouterr().out == ""
    assert (tmp_path / "superseded" / "1" / "run.json").exists()


def test_a_run_stays_aside_if_its_checkpoints_are_not_with_it(tmp_path: Path) -> None:
    elsewhere = run_config(tmp_path, checkpoint={"path": str(tmp_path / "elsewhere")})
    write_run(tmp_path, elsewhere, "completed")
    set_aside(tmp_path)
    assert not back(tmp_path, elsewhere)
    here = run_config(tmp_path)
    write_run(tmp_path, here, "completed")
    set_aside(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "owner.json").write_text(
        json.dumps({"id": "a", "name": "another", "dump_dir": str(tmp_path / "another")})
    )
    assert not back(tmp_path, here)


def test_records_without_a_checkpoint_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = f"{tmp_path}: no checkpoint to resume from, so it starts again"
    set_records_aside(tmp_path)
    assert capsys.readouterr().out == f"{again}\n"
    for name in ("metrics.jsonl", "metrics.eval.jsonl", "run.json"):
        (tmp_path / name).touch()
    set_records_aside(tmp_path)
    kept = tmp_path / "superseded" / "1"
    assert capsys.readouterr().out == f"{again}; the earlier records are in {kept}\n"
    assert {path.name for path in kept.iterdir()} == {"metrics.jsonl", "metrics.eval.jsonl"}
    assert (tmp_path / "run.json").exists()


def test_nothing_computed_is_lost(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "metrics.jsonl").write_text(content)
        for name in ("checkpoints", "export", "evaluation", "tensorboard", "profiling"):
            (tmp_path / name).mkdir()
        (tmp_path / "export" / "config.json").write_text(content)
        set_aside(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["superseded"]
    for name in ("metrics.jsonl", "export/config.json"):
        old = sorted(tmp_path.glob(f"superseded/*/{name}"))
        assert [path.read_text() for path in old] == ["first", "second"]


def test_only_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from trainer.folder.run_file import Lock\n"
        "print(Lock(pathlib.Path(sys.argv[1])).try_acquire())"
    )

    def acquired_by_another() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    lock = Lock(tmp_path)
    assert lock.try_acquire()
    assert acquired_by_another() == "False"
    lock.release()
    assert acquired_by_another() == "True"


@pytest.mark.parametrize("tell", [True, False])
def test_a_process_waits_for_the_lock_and_says_so_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tell: bool,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(run_file.time, "sleep", pauses.append)
    answers = iter([False, False, True, False])
    run_file.wait_for_lock(tmp_path, lambda: next(answers), tell)
    assert len(pauses) == 2
    message = f"{tmp_path}: another process trains here; waiting for it\n"
    assert capsys.readouterr().out == (message if tell else "")


def test_a_killed_attempt_is_recorded_as_failed(tmp_path: Path) -> None:
    killed = RunFile(tmp_path, make_summary(), (), iter((0.0, 7.5)).__next__)
    killed.write(steps_done=3)  # the last that it wrote
    previous = find_summary(tmp_path)
    assert previous is not None
    file = RunFile(tmp_path, make_summary(), previous.attempts, iter((0.0, 1.5)).__next__)
    file.end("completed", outcome="trained")
    account = json.loads((tmp_path / "run.json").read_text())
    assert [attempt["status"] for attempt in account["attempts"]] == ["failed", "completed"]
    assert [attempt["attempt"] for attempt in account["attempts"]] == [1, 2]
    assert [attempt["wall_s"] for attempt in account["attempts"]] == [7.5, 1.5]
    assert (account["status"], account["outcome"]) == ("completed", "trained")


def test_notes_are_written_once_the_file_lags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(run_file.time, "monotonic", lambda: now)

    def steps_written() -> int:
        summary = find_summary(tmp_path)
        assert summary is not None
        return summary.steps_done

    file = RunFile(tmp_path, make_summary(), (), lambda: 0.0)
    file.note(steps_done=1)
    assert steps_written() == 0
    now += run_file.LAG_S
    file.note(steps_done=2)
    assert steps_written() == 2
    file.note(steps_done=3)
    file.end("completed")
    assert steps_written() == 3


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_and_the_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """As on NFS without lockd, on AFS, and on Lustre mounted without flock."""

    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = Lock(tmp_path)
    assert lock.try_acquire()
    lock.release()
    reason = f"{tmp_path}/.lock: cannot be locked: {os.strerror(number)}"
    said = f"warning: {reason}; do not start a second run in this folder\n"
    assert capsys.readouterr().out == said
