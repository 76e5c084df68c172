"""Fuzz all readers of files: python -m tests.fuzz --inputs 500000

Every input is a mutation of a valid one, made from the seed, the reader and the input's number
alone. A reader may refuse it with a ConfigError. Anything else is a failure: another exception,
more than CPU_S of CPU time, more than MEMORY_BYTES of memory, a message that cannot be printed.
Failures are printed with the input and the command that repeats it; the exit code is then 1.
"""

import argparse
import contextlib
import gc
import io
import mmap
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz.readers import READERS, Reader, warm_up
from trainer.problems import ConfigError

CPU_S = 5.0
"""CPU time that one input may take; a thousand times what most take."""

WALL_S = 120.0
"""Time after which a process that is still at the same input is ended."""

MEMORY_BYTES = 2**30
"""Memory that a process may take in addition to what it had at its start."""

LONGEST_MESSAGE = 100_000
"""Most characters of a message."""

SHOWN = 2000
"""Bytes of an input that are printed."""

MOST_FAILURES = 20

PROGRESS_S = 30.0


class TooSlow(BaseException):
    """An input took too much CPU time."""


@dataclass(frozen=True)
class Failure:
    """An input that was neither read nor refused."""

    reader: str
    number: int
    what: str
    """The exception, and where it was raised."""
    key: str
    """Equal for failures of one cause."""
    content: bytes


def schedule(readers: dict[str, Reader], inputs: int) -> list[tuple[str, int]]:
    """Return reader and number of each input, the readers in turns by their shares."""
    turn = [name for name, reader in readers.items() for _ in range(reader.share)]
    return [(turn[i % len(turn)], i) for i in range(inputs)]


def make(name: str, reader: Reader, number: int, seed: int) -> bytes:
    """Return an input of a reader."""
    return reader.make(random.Random(f"{seed} {name} {number}"))


def try_input(
    name: str, reader: Reader, number: int, content: bytes, folder: Path
) -> Failure | None:
    """Have an input read; return how that failed, or None."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            reader.read(content, folder)
        return None
    except ConfigError as error:
        message = str(error)
        try:
            message.encode()
        except UnicodeEncodeError:
            return Failure(name, number, f"not printable: {message!r}", "message", content)
        if len(message) > LONGEST_MESSAGE:
            what = f"a message of {len(message):,} characters: {message[:500]}"
            return Failure(name, number, what, "message", content)
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/site-packages/" not in frame.filename]
        last = (ours or frames)[-1]
        key = f"{type(error).__name__} {last.filename}:{last.lineno}"
        return Failure(name, number, "".join(traceback.format_exception(error)[-12:]), key, content)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Limit the CPU time of each input, by `renew`, and the memory of this process."""

    def too_slow(number: int, frame: Any) -> None:
        raise TooSlow(f"more than {CPU_S:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, too_slow)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class Worker:
    """A process that tries a part of the inputs, and tells of failures as it finds them."""

    def __init__(
        self, readers: dict[str, Reader], part: list[tuple[str, int]], seed: int, shared: Any
    ) -> None:
        """`shared`: the number of inputs tried, and whether to stop."""
        self.readers, self.part, self.seed, self.shared = readers, part, seed, shared
        parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        # Removed here, also if the process is killed.
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", dir=parent)
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=self._work, args=(sender,), daemon=True)
        self._process.start()
        sender.close()
        self._seen = (0, time.monotonic())
        self.ended = False
        self.peak_mib = 0

    @property
    def tried(self) -> int:
        """Inputs tried so far."""
        return int(self.shared[0])

    def poll(self, wait_s: float) -> Failure | None:
        """Return a failure if one is found within `wait_s`; note the end of the process."""
        if self._receiver.poll(wait_s):
            try:
                message = self._receiver.recv()
            except EOFError:
                self._process.join()
                return self._lost(f"the process ended with code {self._process.exitcode}")
            if isinstance(message, Failure):
                return message
            self.ended, self.peak_mib = True, message
            self._folder.cleanup()
        elif self.tried != self._seen[0]:
            self._seen = (self.tried, time.monotonic())
        elif time.monotonic() - self._seen[1] > WALL_S:
            self._process.kill()
            return self._lost(f"more than {WALL_S:g} s")
        return None

    def _lost(self, what: str) -> Failure:
        self.ended = True
        self._process.join()
        self._folder.cleanup()
        name, number = self.part[min(self.tried, len(self.part) - 1)]
        content = make(name, self.readers[name], number, self.seed)
        return Failure(name, number, what, f"{what} {name}", content)

    def _work(self, sender: Any) -> None:
        causes: set[str] = set()
        folder = Path(self._folder.name)
        gc.freeze()  # what the readers have loaded is not searched again and again
        with limits():
            for name, number in self.part:
                failure = try_number(name, self.readers[name], number, self.seed, folder)
                if failure is not None and failure.key not in causes:
                    causes.add(failure.key)
                    sender.send(failure)
                self.shared[0] += 1
                if self.shared[1] or len(causes) >= MOST_FAILURES:
                    break
        sender.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def try_number(name: str, reader: Reader, number: int, seed: int, folder: Path) -> Failure | None:
    """Have an input read within the limit of CPU time."""
    content = make(name, reader, number, seed)
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    failure = try_input(name, reader, number, content, folder)
    signal.setitimer(signal.ITIMER_PROF, 0)
    return failure


@dataclass
class Outcome:
    """What a run of the fuzzer has found."""

    failures: list[Failure]
    """One of each cause."""
    tried: int
    """Inputs."""
    peak_mib: int
    """Most memory of a process."""


def fuzz(inputs: int, seed: int, jobs: int, readers: dict[str, Reader] = READERS) -> Outcome:
    """Try inputs on `jobs` processes; SIGINT and SIGTERM end it early, with what was found."""
    warm_up()  # before the limits
    planned = schedule(readers, inputs)
    shared = [memoryview(mmap.mmap(-1, 16)).cast("q") for _ in range(jobs)]

    def stop(number: int, frame: Any) -> None:
        for values in shared:
            values[1] = 1

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    workers = [Worker(readers, planned[i::jobs], seed, shared[i]) for i in range(jobs)]
    found: dict[str, Failure] = {}
    told = time.monotonic()
    while not all(worker.ended for worker in workers):
        for worker in workers:
            failure = None if worker.ended else worker.poll(0.2)
            if failure is not None and found.setdefault(failure.key, failure) is failure:
                print(describe(failure, seed), flush=True)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            print(f"{sum(worker.tried for worker in workers):,} inputs so far", flush=True)
    for number, handler in before.items():
        signal.signal(number, handler)
    tried = sum(worker.tried for worker in workers)
    return Outcome(list(found.values()), tried, max(worker.peak_mib for worker in workers))


def describe(failure: Failure, seed: int) -> str:
    """Return a failure for people."""
    shown = repr(failure.content[:SHOWN]) + ("..." if len(failure.content) > SHOWN else "")
    again = f"--seed {seed} --reader '{failure.reader}' --number {failure.number}"
    where = f"{failure.reader}, input {failure.number}"
    return f"{where}:\n{failure.what}\n{shown}\nagain: python -m tests.fuzz {again}\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=500_000, help="number of inputs")
    parser.add_argument("--seed", type=int, default=0, help="another seed makes other inputs")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--jobs", type=int, default=cores, help="processes; one per core")
    parser.add_argument("--reader", choices=READERS, help="only this reader")
    parser.add_argument("--number", type=int, help="only this input of --reader")
    given = parser.parse_args(arguments)
    readers = {given.reader: READERS[given.reader]} if given.reader else READERS
    start = time.monotonic()
    if given.number is not None:
        (name,) = readers
        warm_up()
        with tempfile.TemporaryDirectory() as folder, limits():
            failure = try_number(name, readers[name], given.number, given.seed, Path(folder))
        outcome = Outcome([] if failure is None else [failure], 1, 0)
        for failure in outcome.failures:
            print(describe(failure, given.seed))
    else:
        outcome = fuzz(given.inputs, given.seed, given.jobs, readers)
        counts = Counter(name for name, _ in schedule(readers, outcome.tried))
        print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    seconds = time.monotonic() - start
    print(
        f"{outcome.tried:,} inputs for {len(readers)} readers in {seconds:.0f} s "
        f"({outcome.tried / seconds:,.0f}/s), at most {outcome.peak_mib:,} MiB a process, "
        f"seed {given.seed}: {len(outcome.failures)} failures"
    )
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
