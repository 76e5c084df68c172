"""The folder of a run: who may write in it, what stands in it, and its run.json."""

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
"""The complete settings of the run that stands in a folder."""

RUN_FILES = (SUMMARY, METRICS, EVALUATIONS, CONFIG, "checkpoints", "tensorboard", "profiling")
"""What a run leaves behind and the next one would mix with its own."""

PACKAGE = Path(__file__).parents[1]
"""The trainer's sources."""

LAG_S = 1.0
"""Seconds that run.json may lag behind the records: to replace a file takes a millisecond, on a
network file system more."""

Action = Literal["start", "resume", "done"]


class Lock:
    """The right to train in a folder, of one process at a time; it ends with the process."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where there is none. Raises ConfigError where that cannot be."""
        make_folder(folder, "dump_dir")
        self._file = (folder / ".lock").open("w")

    def try_acquire(self) -> bool:
        """Take the lock unless another process has it; say whether it is ours."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        self._file.close()


def choose_action(folder: Path, config: RunConfig, gpus: int, content: dict[str, str]) -> Action:
    """Return what is to be done in a folder, from the run.json that stands there.

    The same run, completed: nothing. The same losses, not completed: resume. Anything else: start.
    `content` holds the key of each source's text.
    """
    summary = read_summary(folder)
    if summary is None or summary.content != content:
        return "start"
    if summary.status == "completed":
        return "done" if summary.fingerprint == config.fingerprint(gpus) else "start"
    return "resume" if summary.trajectory == config.trajectory(gpus) else "start"


def is_completed(folder: Path) -> bool:
    """Say whether the run that stands in a folder, whichever it is, has come to its end."""
    summary = read_summary(folder)
    return summary is not None and summary.status == "completed"


def read_summary(folder: Path) -> RunSummary | None:
    """Return what run.json says; None if there is none, or none that can be read."""
    try:
        return RunSummary.model_validate_json((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None


def set_aside(folder: Path) -> None:
    """Move what another run left in a folder to `superseded/<n>`: nothing computed is lost."""
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
    """run.json: written when a run starts, replaced atomically as it goes on."""

    def __init__(self, folder: Path, summary: RunSummary, previous: Sequence[Attempt]) -> None:
        """Begin the attempt that `summary` ends with; `previous` are those before it."""
        self._path = folder / SUMMARY
        # An attempt that was killed could not write its end.
        ended = (
            item.model_copy(update={"status": "failed"}) if item.status == "running" else item
            for item in previous
        )
        attempt = summary.attempts[-1].model_copy(update={"attempt": 1 + len(previous)})
        self.summary = summary.model_copy(update={"attempts": (*ended, attempt)})
        self.write()

    @property
    def attempt(self) -> Attempt:
        """The attempt that is going on."""
        return self.summary.attempts[-1]

    @property
    def began(self) -> str:
        """When the run's first attempt started."""
        return self.summary.attempts[0].start

    def note(self, **changes: Any) -> None:
        """Take over changes that the file may lag behind with, by `LAG_S`."""
        self.summary = self.summary.model_copy(update=changes)
        if time.monotonic() - self._written >= LAG_S:
            self.write()

    def write(self, **changes: Any) -> None:
        """Take over changes and write the file."""
        self.summary = self.summary.model_copy(update=changes)
        self._written = time.monotonic()
        write_atomically(self._path, self.summary.to_json(indent=1) + "\n")

    def write_attempt(self, **changes: Any) -> None:
        """Take over changes of the attempt and write the file."""
        attempt = self.attempt.model_copy(update=changes)
        self.write(attempts=(*self.summary.attempts[:-1], attempt))

    def end(self, status: Status, wall_s: float, **changes: Any) -> None:
        """Close the attempt."""
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
