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

from trainer.config import RunConfig, load_run_config
from trainer.files import make_folder, move_aside, remove_leftovers, write_atomically
from trainer.folder.checkpoint_state import STATE, complete, entries, folder_of
from trainer.folder.owner import read_owner
from trainer.gpu_state import read_driver
from trainer.records import (
    CHECKPOINTS,
    CONFIG,
    EVALUATIONS,
    METRICS,
    SUMMARY,
    Attempt,
    RunSummary,
    Status,
    Versions,
)

RUN_FILES = (SUMMARY, METRICS, EVALUATIONS, CONFIG, CHECKPOINTS, "tensorboard", "profiling")
"""Files of a run, to be moved aside when another run starts in the folder."""

PACKAGE = Path(__file__).parents[1]
"""The trainer's sources."""

LAG_S = 1.0
"""Least seconds that run.json may lag behind the records: replacing a file durably takes a
millisecond, more on a network file system."""

Action = Literal["start", "resume", "done"]


class Lock:
    """Exclusive lock on a run's folder; released when the process ends."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if needed. Raises ConfigError if it is not writable."""
        make_folder(folder, "dump_dir")
        self._folder = folder
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
            return True  # another process's files may be there
        for name in (SUMMARY, METRICS, EVALUATIONS, CONFIG):
            remove_leftovers(self._folder / name)
        return True

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def choose_action(
    folder: Path,
    config: RunConfig,
    gpus: int,
    content: dict[str, str],
    training_content: dict[str, str] | None = None,
) -> Action:
    """Return what to do in a folder, given its run.json, or else its checkpoints.

    The same run, completed: nothing. The same losses, not completed: resume. Anything else: start.
    `content` is source -> key of its text and tokenizer, `training_content` the same without the
    held-out text, on which the losses do not depend.
    """
    summary = read_summary(folder)
    if summary is None:
        return "resume" if _has_checkpoint(folder, config, gpus, training_content) else "start"
    if summary.content != content:
        if None in (training_content, summary.training_content):
            return "start"
        if summary.training_content != training_content:
            return "start"
        print(f"warning: {folder}: the held-out text has changed since the run began", flush=True)
    if summary.status == "completed":
        return "done" if summary.fingerprint == config.fingerprint(gpus) else "start"
    return "resume" if summary.trajectory == config.trajectory(gpus) else "start"


def _has_checkpoint(
    folder: Path, config: RunConfig, gpus: int, content: dict[str, str] | None
) -> bool:
    """Say whether a run whose run.json is missing or malformed has a checkpoint."""
    found = any(
        facts.get("content") in (None, content)
        for _, facts in complete(folder_of(config, folder), config.trajectory(gpus))
    )
    if found:
        print(f"warning: {folder}: {SUMMARY} cannot be read; resuming without it", flush=True)
    return found


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


def read_settings(folder: Path) -> RunConfig:
    """Return the run.yaml of a run, or of one of its checkpoints. Raises ConfigError."""
    return load_run_config([f"config={folder / CONFIG}"])


def saved_by(run: Path) -> tuple[Path, str | None]:
    """Return the folder of a run's checkpoints, and the trajectory of its own; None: unknown.

    Raises ConfigError if its run.yaml cannot be read.
    """
    summary = read_summary(run)
    return folder_of(read_settings(run), run), summary.trajectory if summary else None


def set_aside(folder: Path, checkpoints: Path | None = None) -> None:
    """Move an earlier run's files to `superseded/<n>`, so that nothing computed is lost.

    `checkpoints` is the folder of its checkpoints, if elsewhere.
    """
    old = [folder / name for name in RUN_FILES if (folder / name).exists()]
    owner = read_owner(folder / CHECKPOINTS)
    if owner is not None and not owner.is_in(folder, folder / CHECKPOINTS):
        old.remove(folder / CHECKPOINTS)
    if old:
        target = move_aside(old)
        print(f"{folder}: the settings have changed; the earlier run is in {target}", flush=True)
    elsewhere = [] if checkpoints is None else entries(checkpoints)
    saved = [path for path in elsewhere if (path / STATE).exists()]
    if saved:
        print(f"{folder}: its checkpoints are in {move_aside(saved)}", flush=True)


def set_records_aside(folder: Path) -> None:
    """Move the records of attempts that left no checkpoint to `superseded/<n>`."""
    old = [folder / name for name in (METRICS, EVALUATIONS) if (folder / name).exists()]
    kept = f"; the earlier records are in {move_aside(old)}" if old else ""
    print(f"{folder}: no checkpoint to resume from, so it starts again{kept}", flush=True)


class RunFile:
    """run.json: written when a run starts, replaced atomically while it runs."""

    def __init__(
        self, folder: Path, summary: RunSummary, previous: Sequence[Attempt], first: int = 1
    ) -> None:
        """Begin the last attempt in `summary`; `previous` are the earlier ones.

        Its number is at least `first`.
        """
        self._path = folder / SUMMARY
        # A killed attempt could not write its end.
        ended = (
            item.model_copy(update={"status": "failed"}) if item.status == "running" else item
            for item in previous
        )
        number = max(first, 1 + max((item.attempt for item in previous), default=0))
        attempt = summary.attempts[-1].model_copy(update={"attempt": number})
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
        if time.monotonic() - self._written >= self._pause_s:
            self.write()

    def write(self, **changes: Any) -> None:
        """Apply changes and write the file."""
        self.summary = self.summary.model_copy(update=changes)
        before = time.monotonic()
        write_atomically(self._path, self.summary.to_json(indent=1) + "\n")
        self._written = time.monotonic()
        # On a slow file system too, writing takes less than a hundredth of the run.
        self._pause_s = max(LAG_S, 100 * (self._written - before))

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
            nccl=_nccl(),
            driver=read_driver(),
        ),
        "commit": _commit(),
        "trainer_version": _source_hash(),
    }


def _nccl() -> str | None:
    import torch

    if not (torch.cuda.is_available() and torch.distributed.is_nccl_available()):
        return None
    return ".".join(map(str, torch.cuda.nccl.version()))


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
