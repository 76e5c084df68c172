"""One attempt of another trainer's run: its command is followed to its end, and its log noted."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from study.jobs.command_process import receiving, signal_group, start_command
from study.jobs.foreign_failure import KEPT_LINES, failure_of, refusal_of, write_failure
from study.jobs.foreign_folder import ForeignFolder
from study.jobs.foreign_job import ForeignJob
from study.jobs.gpu_watch import GpuWatch
from study.jobs.log_follower import FileFollower, Line, LineBuffer
from study.measure.entries import Event, LineReader, Shape, WholeReader
from study.measure.foreign_logs import live_reader
from trainer.files import move_aside
from trainer.folder.run_file import Lock
from trainer.records import EXIT_PREEMPTED, METRICS, Attempt, Failure
from trainer.startup import Startup

POLL_S = 0.1
"""Seconds between two looks at the log."""

SHARE = 0.02
"""Most of the time that reading the log may take."""

PATIENCE_S = 2.0
"""Seconds to wait for the rest of the output after the command has ended: a process that it left
behind may keep it open."""


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
        self._log = (
            None
            if job.log.file is None
            else FileFollower(job.log.file, appended=True, clock=self._elapsed_s)
        )
        # What the log contains now is of earlier attempts.
        self._reader = live_reader(job.log, Shape(job.tokens_per_step, job.gpus))
        self._next_look = 0.0
        if self._log is not None and isinstance(self._reader, WholeReader):
            self._reader.feed(self._log.replaced() or "")
        self._files = ForeignFolder(folder, job, previous, self._gpus, self._elapsed_s)
        self._output = LineBuffer(self._elapsed_s)
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: int | None = None
        """The signal by which the run was asked to stop."""
        self._interrupts = 0
        self._refused = False
        """Its log contradicts the clock or the settings."""

    def _elapsed_s(self) -> float:
        return self._startup.elapsed_s

    def run(self) -> int:
        """Run the command to its end; return the exit code."""
        try:
            with receiving(self._receive):
                code = self._run_command()
                self._look(last=True)
                return self._end(code)
        except OSError as error:  # a full disk, or a folder that was deleted, for example
            print(f"{self._folder}: {error}", file=sys.stderr, flush=True)
            self._files.close()
            return 1

    def _run_command(self) -> int:
        """Follow the command to its end; return its exit code."""
        kept = [self._lock.fileno]
        with start_command(self._job, self._command, kept, subprocess.PIPE) as process:
            self._process = process
            try:
                if self._asked is not None:
                    self._forward()
                self._follow(process)
            except OSError:
                signal_group(process, signal.SIGTERM)
                raise
            return process.wait()

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
        signal_group(self._process, number)

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
        self._tail.extend(line.text for line in lines if line.text.strip())
        if self._log is None:
            self._read_lines(lines)

    def _read_lines(self, lines: Sequence[Line], last: bool = False) -> None:
        assert isinstance(self._reader, LineReader)
        events = [event for line in lines for event in self._reader.feed(*line)]
        self._note([*events, *(self._reader.close() if last else ())])

    def _note(self, events: Sequence[Event]) -> None:
        if events:
            self._files.note(events)
        if self._files.doubts.problem is not None and not self._refused:
            self._refused = True
            if self._process is not None and self._process.poll() is None:
                signal_group(self._process, signal.SIGTERM)

    def _look(self, last: bool = False) -> None:
        """Read what the log has got; `last`: to its end."""
        if self._log is None:
            if last:
                self._read_lines(self._output.close(), last)
            return
        before = time.monotonic()
        if before < self._next_look and not last:
            return
        if isinstance(self._reader, LineReader):
            self._read_lines(self._log.rest() if last else self._log.lines(), last)
        elif (text := self._log.replaced()) is not None:
            self._note(self._reader.feed(text))
        self._next_look = time.monotonic() + max(POLL_S, (time.monotonic() - before) / SHARE)

    def _end(self, code: int) -> int:
        """Write how the attempt ended; return the exit code."""
        files, job = self._files, self._job
        done = f"step {files.last_step} of {job.steps}"
        if files.doubts.problem is not None:
            self._fail(refusal_of(job, files.doubts.problem))
            kept = move_aside([self._folder / METRICS])  # or tables would have what cannot be
            print(f"{self._folder}: what was read is in {kept}", file=sys.stderr, flush=True)
            return 1
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
        return self._fail(failure_of(job, code, files.last_step, self._asked, list(self._tail)))

    def _fail(self, failure: Failure) -> int:
        self._files.end("failed")
        write_failure(self._folder, failure)
        print(failure.message, file=sys.stderr, flush=True)
        return 1
