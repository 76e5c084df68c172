"""What a power loss or a full disk may leave of a file."""

import os
from pathlib import Path

import pytest

from trainer.files import move_aside, remove_leftovers, replace_durably, write_atomically


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the syncs and renames to come, in order, with the name of what they were done to."""
    found: list[tuple[str, str]] = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        found.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        sync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        found.append(("rename", path.name))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return found


def test_a_file_is_on_disk_before_it_replaces_another(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    (tmp_path / "file").write_text("old")
    write_atomically(tmp_path / "file", "new")
    temporary = f".file.{os.getpid()}"
    assert events == [("sync", temporary), ("rename", temporary), ("sync", tmp_path.name)]
    assert (tmp_path / "file").read_text() == "new"


def test_a_folder_is_on_disk_with_its_files(tmp_path: Path, events: list[tuple[str, str]]) -> None:
    (tmp_path / "making" / "below").mkdir(parents=True)
    (tmp_path / "making" / "below" / "a").write_text("a")
    (tmp_path / "making" / "b").write_text("b")
    replace_durably(tmp_path / "making", tmp_path / "made")
    renamed = events.index(("rename", "making"))
    assert {name for _, name in events[:renamed]} == {"a", "b", "below", "making"}
    assert events[renamed + 1 :] == [("sync", tmp_path.name)]
    assert (tmp_path / "made" / "below" / "a").read_text() == "a"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in ("run.json", ".run.json.123", ".run.json.lock", ".run.yaml.123"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "run.json")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".run.json.lock", ".run.yaml.123", "run.json"]


def test_what_is_moved_aside_never_meets(tmp_path: Path) -> None:
    for content in ("first", "second"):
        (tmp_path / "a").write_text(content)
        move_aside([tmp_path / "a"])
    assert (tmp_path / "superseded" / "1" / "a").read_text() == "first"
    assert (tmp_path / "superseded" / "2" / "a").read_text() == "second"
