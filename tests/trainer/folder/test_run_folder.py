import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.small_runs import make_summary, run_config
from trainer.config import RunConfig
from trainer.folder import run_file
from trainer.folder.run_file import Lock, RunFile, find_summary
from trainer.folder.run_folder import choose_action, set_aside

CONTENT = {"text": "abc"}


def write_account(folder: Path, config: RunConfig, status: str, gpus: int = 1) -> None:
    summary = make_summary(
        status=status,
        fingerprint=config.fingerprint(gpus),
        trajectory=config.trajectory(gpus),
        content=CONTENT,
    )
    (folder / "run.json").write_text(summary.to_json())


def choose(folder: Path, config: RunConfig, content: dict[str, str]) -> str:
    return choose_action(folder, config, 1, find_summary(folder), content, content)


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
    assert choose(tmp_path, run_config(tmp_path, **changes), CONTENT) == expected


def test_a_run_starts_in_an_empty_folder(tmp_path: Path) -> None:
    assert choose(tmp_path, run_config(tmp_path), CONTENT) == "start"
    (tmp_path / "run.json").write_text("{torn")
    assert choose(tmp_path, run_config(tmp_path), CONTENT) == "start"


def test_changed_text_makes_a_different_run(tmp_path: Path) -> None:
    write_account(tmp_path, run_config(tmp_path), "completed")
    assert choose(tmp_path, run_config(tmp_path), {"text": "changed"}) == "start"


def test_nothing_computed_is_lost(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "metrics.jsonl").write_text(content)
        for name in ("checkpoints", "export", "evaluation"):
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
