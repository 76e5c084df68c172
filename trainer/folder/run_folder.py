"""The folder of a run: its lock, its files, and run.json."""

import datetime
import fcntl
import hashlib
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from trainer.config import RunConfig
from trainer.files import make_folder, write_atomically
from trainer.records import (
    EVALUATIONS,
    METRICS,
    SUMMARY,
    Attempt,
    RunSummary,
    Status,
    Versions,
)

CONFIG = "run.yaml"
"""File name of the run's complete settings."""

RUN_FILES = (SUMMARY, METRICS, EVALUATIONS, CONFIG, "checkpoints", "tensorboard", "profiling")
"""Files of a run, to be moved aside when another run starts in the folder."""

PACKAGE = Path(__file__).parents[1]
"""The trainer's sources."""

LAG_S = 1.0
"""Seconds that run.json may lag behind the records: replacing a file takes a millisecond, more on a
network file system."""

Action = Literal["start", "resume", "done"]


class Lock:
    """Exclusive lock on a run's folder; released when the process ends."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed. Raises ConfigError if it is not writable."""
        make_folder(folder, "dump_dir")
        self._file = (folder / ".lock").open("w")

    def try_acquire(self) -> bool:
        """Take the lock unless another process holds it; say whether it was taken.

        A file system without locks, as NFS and Lustre may be, has nobody wait; that is said once.
        """
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            message = f"{self._file.name}: cannot be locked: {error.strerror}"
            print(f"warning: {message}; do not start a second run in this folder", flush=True)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def choose_action(folder: Path, config: RunConfig, gpus: int, content: dict[str, str]) -> Action:
    """Return what to do in a folder, given its run.json.

    The same run, completed: nothing. The same losses, not completed: resume. Anything else: start.
    `content` is source -> key of its text and tokenizer.
    """
    summary = read_summary(folder)
    if summary is None or summary.content != content:
        return "start"
    if summary.status == "completed":
        return "done" if summary.fingerprint == config.fingerprint(gpus) else "start"
    return "resume" if summary.trajectory == config.trajectory(gpus) else "start"


def is_completed(folder: Path) -> bool:
    """Say whether the folder's run, whichever it is, is completed."""
    summary = read_summary(folder)
    return summary is not None and summary.status == "completed"


def read_summary(folder: Path) -> RunSummary | None:
    """Return the content of run.json; None if it is missing or malformed."""
    try:
        return RunSummary.model_validate_json((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None


def set_aside(folder: Path) -> None:
    """Move an earlier run's files to `superseded/<n>`, so that nothing computed is lost."""
    old = [folder / name for name in RUN_FILES if (folder / name).exists()]
    if not old:
        return
    number = 1 + sum(1 for _ in folder.glob("superseded/*"))
    target = folder / "superseded" / str(number)
    target.mkdir(parents=True)
    for path in old:
        path.replace(target / path.name)
    print(f"{folder}: the settings have changed; the earlier run is in {target}", flush=True)


class RunFile:
    """run.json: written when a run starts, replaced atomically while it runs."""

    def __init__(self, folder: Path, summary: RunSummary, previous: Sequence[Attempt]) -> None:
        """Begin the last attempt in `summary`; `previous` are the earlier ones."""
        self._path = folder / SUMMARY
        # A killed attempt could not write its end.
        ended = (
            item.model_copy(update={"status": "failed"}) if item.status == "running" else item
            for item in previous
        )
        attempt = summary.attempts[-1].model_copy(update={"attempt": 1 + len(previous)})
        self.summary = summary.model_copy(update={"attempts": (*ended, attempt)})
        self.write()

    @property
    def attempt(self) -> Attempt:
        """The current attempt."""
        return self.summary.attempts[-1]

    @property
    def began(self) -> str:
        """When the run's first attempt started."""
        return self.summary.attempts[0].start

    def note(self, **changes: Any) -> None:
        """Apply changes; write the file at most once per `LAG_S`."""
        self.summary = self.summary.model_copy(update=changes)
        if time.monotonic() - self._written >= LAG_S:
            self.write()

    def write(self, **changes: Any) -> None:
        """Apply changes and write the file."""
        self.summary = self.summary.model_copy(update=changes)
        self._written = time.monotonic()
        write_atomically(self._path, self.summary.to_json(indent=1) + "\n")

    def write_attempt(self, **changes: Any) -> None:
        """Apply changes to the attempt and write the file."""
        attempt = self.attempt.model_copy(update=changes)
        self.write(attempts=(*self.summary.attempts[:-1], attempt))

    def end(self, status: Status, wall_s: float, **changes: Any) -> None:
        """End the attempt."""
        self.summary = self.summary.model_copy(update={"status": status, **changes})
        self.write_attempt(status=status, end=now(), wall_s=wall_s)


def describe_software() -> dict[str, Any]:
    """Return versions, commit and the hash of the trainer's sources, as fields of run.json."""
    import torch

    return {
        "versions": Versions(
            python=platform.python_version(),
            torch=str(torch.__version__),
            cuda=torch.version.cuda,
        ),
        "commit": _commit(),
        "trainer_version": _source_hash(),
    }


def _source_hash() -> str:
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
