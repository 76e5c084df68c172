"""One command at a time on a machine: python -m study.jobs.machine_lock COMMAND ...

Concurrent runs would distort each other's measurements. Snakemake serialises the runs of one
invocation; this lock serialises those of several: two studies in two terminals, or two users. A
command waits until no other command started like this is running. Containers that do not share
/tmp do not see each other's lock.

The lock is flock(2) on a file that all users share. The command inherits the file descriptor and
holds the lock too: the kernel releases it when both processes have ended, however they end. Runs
that need not wait for each other, for example on separate GPUs (CUDA_VISIBLE_DEVICES), use
different files, set by the environment variable SCALING_STUDY_LOCK.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.environment import REMEDY

VARIABLE = "SCALING_STUDY_LOCK"

SHARED = Path("/tmp/scaling-study.lock")
"""Not below TMPDIR, which differs between users and terminals."""


def main(command: Sequence[str]) -> int:
    """Run a command alone on this machine; return its exit code."""
    # The parent shell may ignore SIGTERM for the command, but SIGTERM has to end the waiting.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        lock = acquire(_paths(), note=f"process {os.getpid()}: {command[-1]}")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    # A new process, not exec: the trainer measures start-up from the start of its launcher.
    try:
        process = subprocess.Popen(command, pass_fds=() if lock is None else (lock,))
    except OSError as error:
        hint = f"; {REMEDY}" if isinstance(error, FileNotFoundError) else ""
        print(f"{command[0]}: {error.strerror}{hint}", file=sys.stderr)
        return 127
    _forward_signals(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


def acquire(paths: Sequence[Path], note: str) -> int | None:
    """Wait for the lock on the first of `paths` that can be opened; return its file descriptor.

    `note` is shown to those who have to wait. Returns None if no path can be opened.
    """
    for path in paths:
        try:
            return _acquire(path, note)
        except OSError as error:
            message = f"{path}: {error.strerror}; does not wait for runs that hold this lock"
            print(f"warning: {message}", file=sys.stderr, flush=True)
    return None


def _acquire(path: Path, note: str) -> int:
    while True:
        lock = _open(path)
        try:
            _wait(lock)
        except OSError:  # a file system without locks, as NFS and Lustre may be
            os.close(lock)
            raise
        # A cleanup of /tmp may have removed the file meanwhile: nobody else would see its lock.
        if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
            os.ftruncate(lock, 0)
            os.pwrite(lock, note.encode(), 0)
            return lock
        os.close(lock)


def _wait(lock: int) -> None:
    """Wait for a lock, and say who holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = ""
        deadline = time.monotonic() + 1  # it writes its name just after it has taken the lock
        while not holder and time.monotonic() < deadline:
            holder = os.pread(lock, 4096, 0).decode(errors="replace").strip()
            time.sleep(0.01)
        message = f"another training run uses this machine ({holder}); waiting for it to end"
        print(message, file=sys.stderr, flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def _open(path: Path) -> int:
    """Open the file for all users, whoever created it.

    Linux does not allow opening another user's file in /tmp with O_CREAT (fs.protected_regular),
    hence the two calls.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
        try:
            lock = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        os.fchmod(lock, 0o666)  # regardless of the umask
        return lock


def _paths() -> list[Path]:
    if os.environ.get(VARIABLE):
        return [Path(os.environ[VARIABLE])]
    # If another user's file cannot be opened, at least this user's runs wait for each other.
    return [SHARED, SHARED.with_name(f"scaling-study-{os.getuid()}.lock")]


def _forward_signals(process: "subprocess.Popen[bytes]") -> None:
    """Forward SIGTERM, and ensure that the command receives each signal only once.

    A signal to the whole process group (Ctrl-C) reaches the command directly, so this process
    leaves the group.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    signal.signal(signal.SIGINT, lambda number, frame: None)
    with contextlib.suppress(PermissionError):  # a session leader cannot leave its group
        os.setpgid(0, 0)


if __name__ == "__main__":
    usage = "usage: python -m study.jobs.machine_lock COMMAND ..."
    if len(sys.argv) < 2:
        sys.exit(usage)
    if sys.argv[1] in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
