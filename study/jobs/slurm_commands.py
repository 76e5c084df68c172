"""How Slurm's commands are run, and by whom. Knows nothing of Snakemake or of studies."""

import os
import pwd
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

TIMEOUT_S = 60
"""Time limit of a Slurm command."""

_CHANGES_ANSWERS = re.compile(
    # What a person likes to see, such as SQUEUE_FORMAT, SQUEUE_PARTITION or SACCT_FEDERATION.
    r"(SQUEUE|SACCT|SCANCEL|SCONTROL|SINFO)_\w+|SLURM_TIME_FORMAT"
    # Several jobs for one run; an sbatch that returns at the end of its job, or asks a Slurm
    # cluster that the others do not ask; a log in two files.
    r"|SBATCH_(ARRAY_INX|WAIT|CLUSTERS|ERROR)"
)
"""Variables that Slurm's commands are run without. Others of sbatch, such as SBATCH_ACCOUNT or
SBATCH_QOS, are a site's or a user's defaults, and apply where the study says nothing."""

_children: set["subprocess.Popen[str]"] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The error output on one line, without the commands' prefixes."""
        lines = (line.removeprefix("sbatch: error: ") for line in self.err.splitlines())
        return "; ".join(line for line in lines if line.strip())


def _environment() -> dict[str, str]:
    """Return the environment without the variables that change what the commands do or print."""
    return {k: v for k, v in os.environ.items() if not _CHANGES_ANSWERS.fullmatch(k)}


@cache
def name_of_user(number: int | None = None) -> str:
    """Return a user's name, or the number if it has none; by default this user's."""
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def on_cluster(cluster: str | None) -> list[str]:
    """Return the options by which a command asks a Slurm cluster; none for the default one."""
    return ["-M", cluster] if cluster else []


def ask(command: Sequence[str], stdin: str | None = None) -> Answer:
    """Run one of Slurm's commands; a command that is missing or gives no answer has code 1."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(),
            start_new_session=True,  # Ctrl-C must not interrupt a submission halfway
        )
    except OSError as error:
        return Answer(1, "", f"{command[0]}: {error.strerror}")
    with _lock:
        _children.add(process)
    try:
        out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        return Answer(process.returncode, out, err)
    except subprocess.TimeoutExpired:
        return Answer(1, "", f"no answer within {TIMEOUT_S} s")
    finally:
        with process:  # closes its pipes
            process.kill()
        with _lock:
            _children.discard(process)


def abandon() -> None:
    """End the commands that are waiting for an answer."""
    with _lock:
        for process in _children:
            process.send_signal(signal.SIGKILL)
