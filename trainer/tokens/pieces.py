"""Tokenises a large source piece by piece on all cores; finished pieces survive a kill.

Reads   pieces of text files
Writes  <folder>/<name>.bin and, once that is complete, <name>.json, for each piece; the name is a
        hash of the piece's content

Neither pieces nor tokens depend on the number of workers. A worker is a process that runs this
module: it reads pieces as lines of JSON on stdin and answers on stdout. Imports no torch.
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
from trainer.files import replace_durably, write_atomically
from trainer.json_files import parse_json
from trainer.problems import ConfigError
from trainer.tokens.documents import BLOCK_BYTES, Advance, cut, has_lines
from trainer.tokens.packing import Encoding, Part, pack
from trainer.tokens.piece import Piece
from trainer.tokens.shard_folder import disk_errors_named
from trainer.tokens.text_files import Stat, stat_file

PIECE_BYTES = 2**25
"""Takes some seconds to tokenise: that much is lost in a kill, and cores idle at the end."""
REPORT_S = 1.0
"""Seconds between a worker's progress messages."""
CHANGED = "the files changed while they were read; run this again when they are complete"

Waiting = queue.SimpleQueue["Job"]


class WorkerError(RuntimeError):
    """A worker ended before its work was done."""


@dataclass(frozen=True)
class Job:
    """A piece to tokenise."""

    piece: Piece
    bytes: int
    """Its approximate bytes on disk, for progress."""
    stat: list[Any]
    """Stat of the text file, taken before its content was read."""
    target: Path
    """Path of the tokens, without the suffix."""

    @property
    def tokens(self) -> Path:
        """The file of token ids."""
        return self.target.with_suffix(".bin")

    def result(self, width: int) -> Part | None:
        """Return the finished piece; None if it is missing or incomplete.

        `width`: bytes of a token id.
        """
        try:
            part = Part(**parse_json(self.target.with_suffix(".json").read_bytes()))
            is_complete = self.tokens.stat().st_size == part.tokens * width
        except (OSError, ValueError, TypeError):
            return None
        return part if is_complete else None


def plan_jobs(
    paths: Sequence[Path], stats: Stat, digests: Sequence[str], folder: Path
) -> list[Job]:
    """Return the jobs for the pieces of files, in order.

    The stats are older than the digests, so later changes are detected. The digests before and
    after a file identify the text of its pieces, independent of file names.
    """
    jobs = []
    for path, stat, (before, after) in zip(paths, stats, itertools.pairwise(digests), strict=True):
        pieces = cut(path, PIECE_BYTES)
        for piece in pieces:
            kind = "bytes" if has_lines(path) else "rows"
            identity = json.dumps([before, after, kind, piece.start, piece.stop])
            name = hashlib.sha256(identity.encode()).hexdigest()[:32]
            jobs.append(Job(piece, stat[1] // len(pieces), stat, folder / name))
    return jobs


def make_pieces(jobs: Sequence[Job], encoding: Encoding, workers: int, advance: Advance) -> None:
    """Tokenise pieces, each to its own files. Raises ConfigError or WorkerError."""
    if workers == 1:
        for job in jobs:
            make_piece(job, encoding, advance)
        return
    waiting: Waiting = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    count = min(workers, len(jobs))
    # The stack is closed first: after an error it ends the workers, so that no thread waits.
    with concurrent.futures.ThreadPoolExecutor(count or 1) as pool, contextlib.ExitStack() as stack:
        started = [stack.enter_context(Worker(encoding)) for _ in range(count)]
        futures = [pool.submit(worker.serve, waiting, advance) for worker in started]
        for future in concurrent.futures.as_completed(futures):
            future.result()


def make_piece(job: Job, encoding: Encoding, advance: Advance) -> None:
    """Tokenise one piece; its files get their final names when they are complete."""
    with disk_errors_named(job.target.parent.parent):
        job.target.parent.mkdir(parents=True, exist_ok=True)
        making = job.target.with_name(f".{job.target.name}.{uuid.uuid4().hex}")
        try:
            part = pack([job.piece], making, encoding, advance)
            if stat_file(job.piece.path) != job.stat:
                raise ConfigError(str(job.piece.path.parent), [CHANGED])
            replace_durably(making, job.tokens)
        finally:
            making.unlink(missing_ok=True)
        write_atomically(job.target.with_suffix(".json"), json.dumps(dataclasses.asdict(part)))


def join_pieces(jobs: Sequence[Job], target: Path, width: int) -> Part:
    """Write the tokens of pieces to one file. Raises FileNotFoundError if a piece is missing."""
    total = Part(0, 0, 0)
    with target.open("wb") as joined:
        for job in jobs:
            part = job.result(width)
            if part is None:
                raise FileNotFoundError(job.tokens)
            total += part
            with job.tokens.open("rb") as file:
                shutil.copyfileobj(file, joined, BLOCK_BYTES)
        joined.flush()
        os.fsync(joined.fileno())
    return total


class Worker:
    """A process that tokenises pieces, seen from its parent."""

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
        """Tokenise waiting pieces until none is left. Raises ConfigError or WorkerError."""
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
        with contextlib.suppress(BrokenPipeError):  # _answer reports the exit code
            print(json.dumps(dataclasses.asdict(job), default=str), file=self._process.stdin)
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            code = self._process.wait()
            raise WorkerError(f"a tokenising process ended with exit code {code}")
        return dict(json.loads(line))


class Report:
    """Reports progress to the parent process."""

    def __init__(self) -> None:
        # What libraries print must not mix with the answers.
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._read, self._sent_s = 0, 0.0

    def advance(self, read: int) -> None:
        """Add bytes that were read, and send their number at most once per `REPORT_S`."""
        self._read += read
        if time.monotonic() - self._sent_s > REPORT_S:
            self.flush()

    def flush(self) -> None:
        """Send the number of bytes read since the last time."""
        self.send(read=self._read)
        self._read, self._sent_s = 0, time.monotonic()

    def send(self, **answer: Any) -> None:
        """Send an answer."""
        print(json.dumps(answer), file=self._answers, flush=True)


def main(asked: str) -> None:
    """Tokenise the pieces named on stdin until it closes, also when the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
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
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main(sys.argv[1])
