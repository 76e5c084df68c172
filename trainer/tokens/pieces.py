"""A large source, tokenised piece by piece on all cores; what was done survives a kill.

Reads   pieces of text files, named by the content that they stand for
Writes  <folder>/<name>.bin and, when that is whole, <name>.json, for each piece

The pieces do not depend on the number of workers, so neither do their tokens. A worker is this
module as a process: it takes pieces as lines of JSON on its stdin and answers on its stdout.
Imports no torch.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import TokenizerConfig
from trainer.files import write_atomically
from trainer.problems import ConfigError
from trainer.tokens.documents import BLOCK_BYTES, Advance, Piece, cut
from trainer.tokens.packing import Encoding, Part, pack
from trainer.tokens.text_files import PARQUET, Stat, stat_file

PIECE_BYTES = 2**25
"""Some seconds of tokenising: what a kill costs. The last ones leave no core idle for long."""
REPORT_S = 1.0
"""Seconds between a worker's messages on a piece that takes longer."""
CHANGED = "the files changed while they were read; run this again when they are whole"

Waiting = queue.SimpleQueue["Job"]


class WorkerError(RuntimeError):
    """A worker ended before its work was done."""


@dataclass(frozen=True)
class Job:
    """A piece to be tokenised."""

    piece: Piece
    bytes: int
    """Of the text file, as far as that is known: for progress."""
    stat: list[Any]
    """Of the text file, before its content was looked at."""
    target: Path
    """Where the tokens go, without the ending."""

    @property
    def tokens(self) -> Path:
        """The file of token ids."""
        return self.target.with_suffix(".bin")

    def result(self, width: int) -> Part | None:
        """Return what an earlier process found; None where it did not get so far."""
        try:
            part = Part(**json.loads(self.target.with_suffix(".json").read_text(encoding="utf-8")))
            whole = self.tokens.stat().st_size == part.tokens * width
        except (OSError, ValueError, TypeError):
            return None
        return part if whole else None


def plan_jobs(
    paths: Sequence[Path], stats: Stat, digests: Sequence[str], folder: Path
) -> list[Job]:
    """Return the jobs that make the pieces of files, in order.

    The stats are older than the digests, so text that has changed since is noticed. The digests
    before and after its file say which text a piece is, whatever the file is called.
    """
    jobs = []
    for path, stat, (before, after) in zip(paths, stats, itertools.pairwise(digests), strict=True):
        pieces = cut(path, PIECE_BYTES)
        for piece in pieces:
            kind = "rows" if path.name.endswith(PARQUET) else "bytes"
            identity = json.dumps([before, after, kind, piece.start, piece.stop])
            name = hashlib.sha256(identity.encode()).hexdigest()[:32]
            jobs.append(Job(piece, stat[1] // len(pieces), stat, folder / name))
    return jobs


def make_pieces(jobs: Sequence[Job], encoding: Encoding, workers: int, advance: Advance) -> None:
    """Tokenise pieces, each to files of its own. Raises ConfigError, or WorkerError."""
    if workers == 1:
        for job in jobs:
            make_piece(job, encoding, advance)
        return
    waiting: Waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    count = min(workers, len(jobs))
    # The workers end before the pool waits for its threads: an error leaves nobody waiting.
    with concurrent.futures.ThreadPoolExecutor(count or 1) as pool, contextlib.ExitStack() as crew:
        started = [crew.enter_context(Worker(encoding)) for _ in range(count)]
        served = [pool.submit(worker.serve, waiting, advance) for worker in started]
        for future in concurrent.futures.as_completed(served):
            future.result()


def make_piece(job: Job, encoding: Encoding, advance: Advance) -> None:
    """Tokenise one piece; its files get their names when they are whole."""
    job.target.parent.mkdir(parents=True, exist_ok=True)
    making = job.target.with_name(f".{job.target.name}.{uuid.uuid4().hex}")
    try:
        part = pack([job.piece], making, encoding, advance)
        if stat_file(job.piece.path) != job.stat:
            raise ConfigError(str(job.piece.path.parent), [CHANGED])
        making.replace(job.tokens)
    finally:
        making.unlink(missing_ok=True)
    write_atomically(job.target.with_suffix(".json"), json.dumps(dataclasses.asdict(part)))


def join_pieces(jobs: Sequence[Job], target: Path, width: int) -> Part:
    """Write the tokens of pieces to one file. Raises FileNotFoundError where a piece is gone."""
    total = Part(0, 0, 0)
    with target.open("wb") as whole:
        for job in jobs:
            part = job.result(width)
            if part is None:
                raise FileNotFoundError(job.tokens)
            total += part
            with job.tokens.open("rb") as file:
                shutil.copyfileobj(file, whole, BLOCK_BYTES)
        whole.flush()
        os.fsync(whole.fileno())
    return total


class Worker:
    """A process that tokenises pieces, as the one that started it sees it."""

    def __init__(self, encoding: Encoding) -> None:
        asked = {
            "tokenizer": encoding.config.model_dump(mode="json"),
            "add_bos": encoding.add_bos,
            "add_eos": encoding.add_eos,
        }
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer.tokens.pieces", json.dumps(asked)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]

    def serve(self, waiting: Waiting, advance: Advance) -> None:
        """Have pieces made until none is waiting. Raises ConfigError, or WorkerError."""
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            self._send(job)
            while not (answer := self._answer()).get("done"):
                if "problems" in answer:
                    raise ConfigError(answer["source"], answer["problems"])
                advance(answer["read"])

    def _send(self, job: Job) -> None:
        with contextlib.suppress(BrokenPipeError):  # what it died of is found by its exit code
            print(json.dumps(dataclasses.asdict(job), default=str), file=self._process.stdin)
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self._process.wait()
            raise WorkerError(f"a process that tokenised text ended with exit code {code}")
        return dict(json.loads(line))


class Report:
    """Tells the process that started this one how far it is."""

    def __init__(self) -> None:
        # Whatever a library prints must not come between the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._read, self._sent_s = 0, 0.0

    def advance(self, read: int) -> None:
        """Count bytes that were read, and send their number now and then."""
        self._read += read
        if time.monotonic() - self._sent_s > REPORT_S:
            self.flush()

    def flush(self) -> None:
        """Send the bytes that were read since the last time."""
        self.send(read=self._read)
        self._read, self._sent_s = 0, time.monotonic()

    def send(self, **answer: Any) -> None:
        """Send an answer."""
        print(json.dumps(answer), file=self._answers, flush=True)


def main(asked: str) -> None:
    """Make the pieces that stdin names until it ends: also by the death of who started this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this ends it
    report, options = Report(), json.loads(asked)
    tokenizer = TokenizerConfig.model_validate(options["tokenizer"])
    encoding = Encoding(tokenizer, options["add_bos"], options["add_eos"])
    for line in sys.stdin:
        job = json.loads(line)
        piece = Piece(Path(job["piece"]["path"]), job["piece"]["start"], job["piece"]["stop"])
        try:
            make_piece(
                Job(piece, job["bytes"], job["stat"], Path(job["target"])), encoding, report.advance
            )
        except ConfigError as error:
            report.send(source=error.source, problems=[str(problem) for problem in error.problems])
            continue
        report.flush()
        report.send(done=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # nobody wants the answer any more
        main(sys.argv[1])
