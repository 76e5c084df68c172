"""Another trainer's command as a process: how it is found, started and asked to stop."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from study.jobs.foreign_job import ForeignJob
from trainer.parent import end_with_parent
from trainer.problems import ConfigError
from trainer.signals import STOP_SIGNALS, TORCHRUN_SIGNALS

FORWARDED = f"{TORCHRUN_SIGNALS},SIGUSR1,SIGUSR2"
"""Signals that the command's torchrun forwards to its ranks. This program sends it one that the
trainer asks for, so unlike `FORWARDED` in study/jobs/launch.py they include SIGUSR2, lingua's."""


def find_program(program: str, job: ForeignJob) -> None:
    """Raise ConfigError if the command's program, or the folder to start it in, does not exist."""
    workdir = job.workdir or "."
    if not Path(workdir).is_dir():
        problem = f"workdir: found no folder {workdir}; expected where the trainer is started"
        raise ConfigError(f"trainer '{job.trainer}'", [problem])
    search = job.environment.get("PATH", os.environ.get("PATH"))
    if "/" in program:
        found = os.access(Path(workdir, program), os.X_OK)
    else:
        found = shutil.which(program, path=search) is not None
    if not found:
        problem = f"found no program '{program}' on {os.uname().nodename}; expected the launcher"
        raise ConfigError(f"trainer '{job.trainer}'", [problem])


def start_command(
    job: ForeignJob,
    command: Sequence[str],
    kept: Sequence[int] = (),
    output: int | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, so that only we pass signals on to it.

    `kept`: descriptors that it inherits, as of the lock of the run's folder, which it then keeps
    even if this process is killed, in which case it is asked to end. `output`: as `stdout` of
    Popen; by default ours.
    """
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",  # its lines come when they are written
        "PET_SIGNALS_TO_HANDLE": FORWARDED,
        **job.environment,
    }
    return subprocess.Popen(
        command,
        cwd=job.workdir,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=kept,
        preexec_fn=end_with_parent,
    )


def run_beside(job: ForeignJob, command: Sequence[str]) -> int:
    """Run the command on a node other than the first, and forward stop requests to it."""
    started: subprocess.Popen[bytes] | None = None
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or (number == signal.SIGUSR1 and not job.resumes):
            return
        asked = True
        pass_on()

    def pass_on() -> None:
        if asked and started is not None:
            signal_group(started, signal.Signals[job.stop_signal])

    with receiving(forward), start_command(job, command) as process:
        started = process
        pass_on()  # what came meanwhile
        # To its end, not to that of its output: a process that it left behind may keep it open.
        return process.wait()


@contextlib.contextmanager
def receiving(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the stop requests that come during a block."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to a command and what it has started, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
