"""The record files as a run writes them: metrics.jsonl, metrics.eval.jsonl. Imports no torch."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trainer.files import FileGoneError, write_atomically
from trainer.json_files import parse_json
from trainer.records import Evaluation, Record


class RecordFile:
    """A file of JSON lines, one for each step recorded; no step occurs twice."""

    def __init__(
        self, path: Path, resume_step: int, send: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Open for appending; drop records after `resume_step`, whose steps are repeated.

        `send` is also called with each record, under its names in the file.
        """
        kept = [line for step, line in _lines(path) if step <= resume_step]
        self.last: dict[str, Any] = parse_json(kept[-1]) if kept else {}
        """The last record kept, under its names in the file; empty if there is none."""
        write_atomically(path, "".join(f"{line}\n" for line in kept))
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._send = send

    def write(self, record: Record | Evaluation) -> None:
        """Append a record: all of its line, or nothing if the disk is full.

        Raises FileGoneError if it would be lost: appending to a deleted file succeeds.
        """
        if not self._path.exists():
            raise FileGoneError(self._path)
        line = record.to_json().encode() + b"\n"
        size = os.fstat(self._file.fileno()).st_size
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        if self._send is not None:
            self._send(record.to_dict())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield step and line of each complete record; a line cut off by a kill is skipped."""
    if not path.exists():
        return
    for content in path.read_bytes().split(b"\n"):
        try:
            line = content.decode("utf-8")
            yield int(parse_json(line)["global_step"]), line
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
