"""The record files, and what accumulates between records: losses and times."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.files import write_atomically
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
        """Append a record: all of its line, or nothing if the disk is full."""
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


class LossMean:
    """The mean training loss since the last record, on the device, so that adding does not wait."""

    def __init__(self, device: torch.device, total: float = 0.0, steps: int = 0) -> None:
        """`total` and `steps` are those of a checkpoint between two records."""
        self.total = torch.full((), total, dtype=torch.float64, device=device)
        """Sum over the steps, a scalar."""
        self.steps = steps

    def add(self, loss: Tensor) -> None:
        """Add a step's loss, a scalar."""
        self.total += loss
        self.steps += 1

    def mean(self) -> Tensor:
        """Return the mean, a scalar on the device."""
        return self.total / self.steps

    def restart(self) -> None:
        """Begin an interval."""
        self.total.zero_()
        self.steps = 0


class RecordTimer:
    """The time since the last record, in total and by cause."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin an interval."""
        self._spent = {"data": 0.0, "checkpoint": 0.0, "eval": 0.0}
        self._start = time.perf_counter()
        self.steps = 0
        """Steps since the last record."""

    def charge(self, kind: str, since: float) -> None:
        """Charge the time since a reading of the clock to `data`, `checkpoint` or `eval`."""
        self._spent[kind] += time.perf_counter() - since

    @contextmanager
    def spending(self, kind: str) -> Iterator[None]:
        """Charge the time of a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.charge(kind, start)

    def read(self) -> dict[str, Any]:
        """Return the times of the interval as fields of a `Record`; begin the next interval."""
        spent = self._spent
        training_s = time.perf_counter() - self._start - spent["checkpoint"] - spent["eval"]
        times = {
            "step_s": training_s / self.steps,
            "interval_steps": self.steps,
            **{f"{kind}_s": seconds for kind, seconds in spent.items()},
        }
        self.restart()
        return times
