"""run.json while a run goes on, and the lock of its folder. Imports no torch."""

import datetime
import fcntl
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.files import FileGoneError, make_folder, remove_leftovers, write_atomically
from trainer.records import CONFIG, EVALUATIONS, METRICS, SUMMARY, Attempt, RunSummary, Status

LAG_S = 1.0
"""Least seconds that run.json may lag behind the records: replacing a file durably takes a
millisecond, more on a network file system."""

LOCK_POLL_S = 1.0
"""Seconds between attempts to lock a folder in which another process trains."""


def find_summary(folder: str | Path) -> RunSummary | None:
    """Return the content of run.json; None if it is missing or malformed."""
    try:
        return RunSummary.model_validate_json(Path(folder, SUMMARY).read_bytes())
    except (OSError, ValueError):
        return None


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

    @property
    def fileno(self) -> int:
        """Descriptor of the lock: a process that inherits it holds the lock, too."""
        return self._file.fileno()

    def release(self) -> None:
        """Release the lock."""
        self._file.close()


def wait_for_lock(folder: Path, acquire: Callable[[], bool], tell: bool = True) -> None:
    """Call `acquire` until the lock of a run's folder is taken; `tell` that another process has it.

    The ranks of a run acquire it together, of which one tells.
    """
    waited = False
    while not acquire():
        if tell and not waited:
            print(f"{folder}: another process trains here; waiting for it", flush=True)
        waited = True
        time.sleep(LOCK_POLL_S)


class RunFile:
    """run.json: written when a run starts, replaced atomically while it runs."""

    def __init__(
        self,
        folder: Path,
        summary: RunSummary,
        previous: Sequence[Attempt],
        elapsed_s: Callable[[], float],
        first: int = 1,
    ) -> None:
        """Begin the last attempt in `summary`; `previous` are the earlier ones.

        `elapsed_s` returns the seconds since it started; its number is at least `first`.
        """
        self._path, self._elapsed_s = folder / SUMMARY, elapsed_s
        # A killed attempt could not write its end.
        ended = (
            item.model_copy(update={"status": "failed"}) if item.status == "running" else item
            for item in previous
        )
        number = max(first, 1 + max((item.attempt for item in previous), default=0))
        attempt = summary.attempts[-1].model_copy(update={"attempt": number})
        self.summary = summary.model_copy(update={"attempts": (*ended, attempt)})
        self._replace()

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
        """Apply changes and write the file.

        Raises FileGoneError if it is not there: a new folder would lack the run's other files.
        """
        if not self._path.exists():
            raise FileGoneError(self._path)
        self.summary = self.summary.model_copy(update=changes)
        self._replace()

    def _replace(self) -> None:
        """Write the file, with the attempt's time so far."""
        attempt = self.attempt.model_copy(update={"wall_s": self._elapsed_s()})
        attempts = (*self.summary.attempts[:-1], attempt)
        self.summary = self.summary.model_copy(update={"attempts": attempts})
        before = time.monotonic()
        write_atomically(self._path, self.summary.to_json(indent=1) + "\n")
        self._written = time.monotonic()
        # On a slow file system too, writing takes less than a hundredth of the run.
        self._pause_s = max(LAG_S, 100 * (self._written - before))

    def write_attempt(self, **changes: Any) -> None:
        """Apply changes to the attempt and write the file."""
        attempt = self.attempt.model_copy(update=changes)
        self.write(attempts=(*self.summary.attempts[:-1], attempt))

    def end(
        self, status: Status, unrecorded: Mapping[str, float] | None = None, **changes: Any
    ) -> None:
        """End the attempt; `unrecorded` is that of `Attempt`."""
        self.summary = self.summary.model_copy(update={"status": status, **changes})
        self.write_attempt(status=status, end=now(), unrecorded=dict(unrecorded or {}))


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
