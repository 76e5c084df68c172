"""Long-running processes, known by a file that holds a process id and its start time."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


class ClusterError(Exception):
    """Something the user can act on; the command line prints it as one line."""


def run(*command: str | Path, stdin: str | None = None, timeout: float = 60) -> str:
    """Run a command to its end and return what it printed; a failure carries its error output."""
    try:
        finished = subprocess.run(
            [str(word) for word in command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"'{command[0]}' did not end within {timeout:.0f} s") from None
    if finished.returncode != 0:
        message = " ".join((finished.stderr or finished.stdout).split())
        raise ClusterError(f"'{' '.join(map(str, command))}' failed: {message}")
    return finished.stdout


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Ask every tenth of a second until the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what}: not so after {timeout:.0f} s")
        time.sleep(0.1)


@dataclass(frozen=True)
class Process:
    """A process started by one command of the cluster and stopped by a later one."""

    name: str
    pid_file: Path
    log: Path
    """Receives what the process prints."""

    def start(self, command: Sequence[str | Path]) -> None:
        """Start it in a session of its own, unless it runs already."""
        if self.is_running():
            return
        with self.log.open("a") as output:
            child = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        self.pid_file.write_text(f"{child.pid} {_start_time(child.pid)}")

    def stop(self, number: signal.Signals, timeout: float = 15) -> None:
        """Send a signal and wait for the process to be gone."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)
            wait_until(lambda: not self.is_running(), f"{self.name} has ended", timeout)
        self.pid_file.unlink(missing_ok=True)

    def is_running(self) -> bool:
        return self.pid() is not None

    def pid(self) -> int | None:
        """Its process id; None if it ended, even where another process has the id by now."""
        if not self.pid_file.exists():
            return None
        pid, start_time = self.pid_file.read_text().split()
        return int(pid) if _start_time(int(pid)) == start_time else None


def _start_time(pid: int) -> str | None:
    """The clock tick at which a process started, or None if there is none; see proc(5), `stat`."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in brackets and may itself hold blanks and brackets.
    fields = stat.rpartition(")")[2].split()
    state, start_time = fields[0], fields[19]
    return None if state == "Z" else start_time
