"""Fuzz all readers of files: python -m tests.fuzz --inputs 500000

Every input is a mutation of a valid one, made from the seed, the reader and the input's number
alone. A reader may refuse it with a ConfigError. Anything else is a failure: another exception,
more than CPU_S of CPU time, more than MEMORY_BYTES of memory, a message that cannot be printed.
Failures are printed with the input and the command that repeats it; the exit code is then 1.
"""

import argparse
import contextlib
import io
import mmap
import multiprocessing
import os
import random
import resource
import shutil
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

from tests.fuzz.readers import READERS, Reader
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
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
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


def work(
    readers: dict[str, Reader], inputs: list[tuple[str, int]], seed: int, place: Any, slot: int
) -> list[Failure]:
    """Try inputs one after the other; return the failures.

    `place[slot]` says which one is being tried.
    """
    failures: dict[str, Failure] = {}
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
    try:
        (folder / "0000000001").mkdir()
        with limits():
            for position, (name, number) in enumerate(inputs):
                place[slot] = position
                content = make(name, readers[name], number, seed)
                signal.setitimer(signal.ITIMER_PROF, CPU_S)
                failure = try_input(name, readers[name], number, content, folder)
                signal.setitimer(signal.ITIMER_PROF, 0)
                if failure is not None:
                    failures.setdefault(failure.key, failure)
                    if len(failures) >= MOST_FAILURES:
                        break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return list(failures.values())


def fuzz(inputs: int, seed: int, jobs: int, readers: dict[str, Reader] = READERS) -> list[Failure]:
    """Try inputs on `jobs` processes; return one failure of each cause."""
    planned = schedule(readers, inputs)
    place = memoryview(mmap.mmap(-1, 8 * jobs)).cast("q")
    context = multiprocessing.get_context("fork")
    running = {}
    for slot in range(jobs):
        receiver, sender = context.Pipe(duplex=False)
        part = planned[slot::jobs]
        process = context.Process(target=_child, args=(sender, readers, part, seed, place, slot))
        process.start()
        sender.close()
        running[slot] = (process, receiver, part)
    found: dict[str, Failure] = {}
    seen = {slot: (-1, time.monotonic()) for slot in running}
    while running:
        for slot, (process, receiver, part) in list(running.items()):
            name, number = part[place[slot]] if part else ("", 0)
            failures: list[Failure] = []
            if receiver.poll(0.2):
                try:
                    failures, peak = receiver.recv()
                    print(f"process {slot}: {len(part):,} inputs, at most {peak:,} MiB", flush=True)
                except EOFError:
                    process.join()
                    what = f"the process ended with code {process.exitcode}"
                    failures = [_lost(name, number, what, seed, readers)]
            elif place[slot] != seen[slot][0]:
                seen[slot] = (place[slot], time.monotonic())
                continue
            elif time.monotonic() - seen[slot][1] < WALL_S:
                continue
            else:
                process.kill()
                failures = [_lost(name, number, f"more than {WALL_S:g} s", seed, readers)]
            for failure in failures:
                found.setdefault(failure.key, failure)
            process.join()
            del running[slot]
    return list(found.values())


def _child(sender: Any, readers: Any, part: Any, seed: int, place: Any, slot: int) -> None:
    try:
        failures = work(readers, part, seed, place, slot)
    except BaseException as error:
        name, number = part[place[slot]]
        what = "".join(traceback.format_exception(error)[-12:])
        failures = [Failure(name, number, what, f"work {type(error).__name__}", b"")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sender.send((failures, peak))


def _lost(name: str, number: int, what: str, seed: int, readers: dict[str, Reader]) -> Failure:
    content = make(name, readers[name], number, seed)
    return Failure(name, number, what, f"{what} {name}", content)


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
        content = make(name, readers[name], given.number, given.seed)
        with tempfile.TemporaryDirectory() as folder, limits():
            Path(folder, "0000000001").mkdir()
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            found = [try_input(name, readers[name], given.number, content, Path(folder))]
        failures = [failure for failure in found if failure is not None]
    else:
        failures = fuzz(given.inputs, given.seed, given.jobs, readers)
    for failure in failures:
        print(describe(failure, given.seed))
    if given.number is None:
        counts = Counter(name for name, _ in schedule(readers, given.inputs))
        print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    seconds = time.monotonic() - start
    tried = 1 if given.number is not None else given.inputs
    rate = tried / max(seconds, 1e-9)
    print(
        f"{tried:,} inputs for {len(readers)} readers in {seconds:.0f} s ({rate:,.0f}/s), "
        f"seed {given.seed}: {len(failures)} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
