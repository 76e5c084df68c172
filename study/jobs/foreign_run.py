"""Runs another trainer's command and writes the run's folder from its log: run.json, metrics.jsonl,
metrics.eval.jsonl and, after a failure, failure.json.

    python -m study.jobs.foreign_run RUN_FOLDER -- COMMAND...

A stop request is forwarded as the trainer's own signal. The exit code is 0 if the run is complete,
75 if it was asked to stop and can go on, and 1 if it failed. On several nodes it is started once on
each; only that of the first one writes.
"""

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from study.jobs.foreign_folder import ForeignFolder, set_aside
from study.jobs.foreign_job import ForeignJob, read_job
from study.jobs.gpu_watch import GpuWatch
from study.jobs.log_follower import FileFollower, LineBuffer
from study.measure.entries import Event, LineReader, Shape, WholeReader
from study.measure.foreign_logs import live_reader
from trainer.files import write_atomically
from trainer.folder.run_file import Lock, find_summary, wait_for_lock
from trainer.parent import end_with_parent
from trainer.problems import ConfigError
from trainer.records import EXIT_PREEMPTED, FAILURE, Attempt, Failure
from trainer.signals import STOP_SIGNALS, TORCHRUN_SIGNALS
from trainer.startup import Startup

POLL_S = 0.1
"""Seconds between two looks at the log."""

SHARE = 0.02
"""Most of the time that reading the log may take."""

PATIENCE_S = 2.0
"""Seconds to wait for the rest of the output after the command has ended: a process that it left
behind may keep it open."""

LAST_LINES, KEPT_LINES = 15, 200
"""Lines of output in the message of a failure, and lines among which they are found."""

SUMMARY_OF_TORCHRUN = re.compile(r"torch.distributed.elastic.*failed \(exitcode")
"""The line after which torchrun says which ranks failed; the reason is before it."""

FORWARDED = f"{TORCHRUN_SIGNALS},SIGUSR1,SIGUSR2"
"""Signals that the command's torchrun forwards to its ranks. This program sends it one that the
trainer asks for, so unlike `FORWARDED` in study/jobs/launch.py they include SIGUSR2, lingua's."""

OUT_OF_MEMORY = ("OutOfMemoryError", "CUDA out of memory", "HIP out of memory")
"""What the output of a trainer that ran out of GPU memory contains."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit code."""
    if len(arguments) < 3 or arguments[1] != "--":
        print("usage: python -m study.jobs.foreign_run RUN_FOLDER -- COMMAND...", file=sys.stderr)
        return 2
    startup = Startup()
    folder, command = Path(arguments[0]), arguments[2:]
    try:
        job = read_job(folder)
        find_program(command[0], job)
    except ConfigError as error:
        print(error, file=sys.stderr)
        refusal = Failure(kind="configuration", retry=False, message=str(error))
        with contextlib.suppress(OSError):
            write_atomically(folder / FAILURE, refusal.to_json() + "\n")
        return 1
    if int(os.environ.get("SLURM_PROCID") or 0) > 0:
        return _run_beside(job, command)
    return run(folder, job, command, startup)


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


def run(folder: Path, job: ForeignJob, command: Sequence[str], startup: Startup) -> int:
    """Start or resume a run, or report that it is complete; return the exit code."""
    lock = Lock(folder)
    wait_for_lock(folder, lock.try_acquire)
    try:
        (folder / FAILURE).unlink(missing_ok=True)
        earlier = find_summary(folder)
        if earlier is not None and earlier.fingerprint == job.fingerprint:
            if earlier.status == "completed":
                print(f"{folder}: the run is complete already", flush=True)
                return 0
            previous = earlier.attempts
        else:
            previous = ()
        _prepare(folder, job, known=earlier is not None, again=bool(previous))
        return Supervisor(folder, job, command, previous, startup, lock).run()
    finally:
        lock.release()


def _prepare(folder: Path, job: ForeignJob, known: bool, again: bool) -> None:
    """Set aside what this attempt does not go on with, and write the trainer's own config.

    `known`: an earlier attempt was made here; `again`: with the same settings.
    """
    if not again:
        set_aside(folder, job, "the settings have changed" if known else "found other files")
    elif not job.resumes:
        set_aside(folder, job, f"{job.trainer} does not resume, so it starts afresh")
    if job.config is not None:
        write_atomically(Path(job.config.file), job.config.text)


class Supervisor:
    """One attempt: the command, its output, its log and the run's files."""

    def __init__(
        self,
        folder: Path,
        job: ForeignJob,
        command: Sequence[str],
        previous: Sequence[Attempt],
        startup: Startup,
        lock: Lock,
    ) -> None:
        self._folder, self._job, self._command = folder, job, command
        self._startup, self._lock = startup, lock
        self._gpus = GpuWatch(job.device, job.gpus)
        # What the log contains now is of earlier attempts.
        self._log = None if job.log.file is None else FileFollower(job.log.file, appended=True)
        self._reader = live_reader(job.log, Shape(job.tokens_per_step, job.gpus))
        self._next_look = 0.0
        if isinstance(self._reader, WholeReader) and self._log and (text := self._log.replaced()):
            self._reader.feed(text)
        self._files = ForeignFolder(folder, job, previous, self._gpus, lambda: startup.elapsed_s)
        self._output = LineBuffer()
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: int | None = None
        """The signal by which the run was asked to stop."""
        self._interrupts = 0

    def run(self) -> int:
        """Run the command to its end; return the exit code."""
        with _receiving(self._receive):
            with _starting(self._job, self._command, [self._lock.fileno]) as process:
                self._process = process
                try:
                    if self._asked is not None:
                        self._forward()
                    self._follow(process)
                except OSError as error:  # a full disk, for example
                    _signal_group(process, signal.SIGTERM)
                    print(f"{self._folder}: {error}", file=sys.stderr, flush=True)
                    return 1
                code = process.wait()
            self._look(last=True)
            return self._end(code)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1 and not self._job.resumes:
            # Slurm's warning: stopping now would save nothing.
            return
        self._interrupts += number == signal.SIGINT
        # Slurm signals every process of a step, and srun passes its own signal on. torchrun would
        # stop waiting for its ranks at a second one.
        if self._asked is None or self._interrupts > 1:
            self._asked = number
            self._forward()

    def _forward(self) -> None:
        """Ask the trainer to stop: its launchers, which pass it on to their ranks. A second Ctrl-C
        ends it."""
        if self._process is None or self._process.poll() is not None:
            return
        number = signal.SIGKILL if self._interrupts > 1 else signal.Signals[self._job.stop_signal]
        _signal_group(self._process, number)

    def _follow(self, process: "subprocess.Popen[bytes]") -> None:
        """Pass on the output and read the log, until the command has ended."""
        assert process.stdout is not None
        ended_s: float | None = None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                ready = selector.select(POLL_S)
                content = os.read(process.stdout.fileno(), 1 << 16) if ready else None
                if content:
                    self._pass_on(content)
                self._look()
                self._gpus.sample()
                if content == b"":
                    return
                if ended_s is None and process.poll() is not None:
                    ended_s = time.monotonic()
                if ended_s is not None and time.monotonic() - ended_s > PATIENCE_S:
                    return

    def _pass_on(self, content: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody may read it any more
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        lines = self._output.feed(content)
        self._tail.extend(line for line in lines if line.strip())
        if self._log is None:
            self._read_lines(lines)

    def _read_lines(self, lines: Sequence[str]) -> None:
        assert isinstance(self._reader, LineReader)
        self._note([event for line in lines for event in self._reader.feed(line)])

    def _note(self, events: Sequence[Event]) -> None:
        if events:
            self._files.note(events)

    def _look(self, last: bool = False) -> None:
        """Read what the log has got; `last`: to its end."""
        if self._log is None:
            if last:
                self._read_lines(self._output.close())
            return
        before = time.monotonic()
        if before < self._next_look and not last:
            return
        if isinstance(self._reader, LineReader):
            self._read_lines(self._log.rest() if last else self._log.lines())
        elif (text := self._log.replaced()) is not None:
            self._note(self._reader.feed(text))
        self._next_look = time.monotonic() + max(POLL_S, (time.monotonic() - before) / SHARE)

    def _end(self, code: int) -> int:
        """Write how the attempt ended; return the exit code."""
        files, job = self._files, self._job
        done = f"step {files.last_step} of {job.steps}"
        if files.diverged:
            print(f"{self._folder}: the loss is not finite at {done}", flush=True)
            files.end("completed", "diverged")
            return 0
        if code == 0 and files.all_steps_done:
            files.end("completed", "trained")
            return 0
        if self._asked is not None and job.resumes:
            files.end("preempted")
            print(f"{self._folder}: asked to stop, ended at {done}; can be resumed", flush=True)
            return EXIT_PREEMPTED
        files.end("failed")
        failure = self._failure(code, done)
        with contextlib.suppress(OSError):
            write_atomically(self._folder / FAILURE, failure.to_json() + "\n")
        print(failure.message, file=sys.stderr, flush=True)
        return 1

    def _failure(self, code: int, done: str) -> Failure:
        """Return the content of failure.json."""
        name, log = self._job.trainer, self._job.log
        if self._asked is not None:
            what = signal.Signals(self._asked).name
            message = f"{name} was stopped by {what} at {done}. It does not resume: a retry starts"
            return Failure(retry=True, message=f"{message} afresh.")
        if code == 0 and self._files.last_step == 0:
            where = "in its output" if log.file is None else f"in {log.file}"
            message = f"{name} ended with code 0, but no step was found {where}"
            expected = "expected lines that `log` in trainers.yaml describes"
            return Failure(retry=False, message=f"{message}; {expected} (format {log.format})")
        if code == 0:
            return Failure(retry=True, message=f"{name} ended with code 0 at {done}")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
        lines = list(self._tail)
        end = next((i for i, line in enumerate(lines) if SUMMARY_OF_TORCHRUN.search(line)), None)
        output = "\n".join(lines[:end][-LAST_LINES:])
        message = f"{name} failed with {how} at {done}. Its last lines:\n{output}"
        if any(word in output for word in OUT_OF_MEMORY):
            return Failure(kind="gpu_out_of_memory", retry=False, message=message)
        return Failure(retry=True, message=message)


def _starting(
    job: ForeignJob, command: Sequence[str], kept: list[int]
) -> "subprocess.Popen[bytes]":
    """Start a command in a session of its own, so that only we pass signals on to it.

    It keeps the lock of the run's folder, even if this process is killed, in which case it is asked
    to end.
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
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=kept,
        preexec_fn=end_with_parent,
    )


def _run_beside(job: ForeignJob, command: Sequence[str]) -> int:
    """Run the command on a node other than the first, and forward stop requests to it."""
    with _starting(job, command, []) as process:
        asked = False

        def forward(number: int, frame: FrameType | None) -> None:
            nonlocal asked
            if asked or (number == signal.SIGUSR1 and not job.resumes):
                return
            asked = True
            _signal_group(process, signal.Signals[job.stop_signal])

        with _receiving(forward):
            assert process.stdout is not None
            shutil.copyfileobj(process.stdout, sys.stdout.buffer)
            return process.wait()


@contextlib.contextmanager
def _receiving(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the stop requests that come during a block."""
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _signal_group(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
