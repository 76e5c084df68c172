"""What a run writes down: the records of metrics.jsonl, and where the seconds went."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class RecordFile:
    """A file of JSON lines, one for each step recorded; no step stands in it twice."""

    def __init__(
        self, path: Path, resume_step: int, send: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """Open for appending; records after `resume_step` belong to steps that are done again.

        `send` gets each record too.
        """
        kept = [line for step, line in _records(path) if step <= resume_step]
        write_atomically(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._send = send

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; numbers that are not finite become null, as JSON knows none."""
        try:
            line = json.dumps(record, allow_nan=False)
        except ValueError:
            line = json.dumps({key: _finite(value) for key, value in record.items()})
        self._file.write(line + "\n")
        self._file.flush()
        if self._send is not None:
            self._send(record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _records(path: Path) -> Iterator[tuple[int, str]]:
    """Yield step and line of each whole record; a line torn by a kill is passed over."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield int(json.loads(line)["global_step"]), line
        except (ValueError, KeyError, TypeError):
            continue


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Interval:
    """The time since the last record: whole, and by what it went to."""

    def __init__(self) -> None:
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

    def count_step(self) -> None:
        """Count a step of the interval."""
        self.steps += 1

    def read(self) -> dict[str, float | int]:
        """Return the interval's `time/` keys, and begin the next one.

        `time/step_s` is the mean step time with checkpoints and evaluations taken out; waiting for
        data is a part of it.
        """
        now = time.perf_counter()
        spent = self._spent
        training_s = now - self._start - spent["checkpoint"] - spent["eval"]
        record: dict[str, float | int] = {
            "time/step_s": training_s / self.steps,
            "time/interval_steps": self.steps,
            **{f"time/{kind}_s": seconds for kind, seconds in spent.items()},
        }
        self.__init__()  # type: ignore[misc]
        return record


class Startup:
    """The way from the start of the process to the end of the first step, split by what it did."""

    def __init__(self) -> None:
        self.launch_s = _age_s(os.getppid()) if "TORCHELASTIC_RUN_ID" in os.environ else None
        own_s = _age_s(os.getpid())
        self.split: dict[str, float | None] = {}
        if self.launch_s is not None:
            # torchrun's own start belongs to what a user waits for.
            self.split["launcher_s"] = self.launch_s - own_s
        self._begin = time.perf_counter() - (self.launch_s or own_s)
        self._last = time.perf_counter() - own_s

    def mark(self, name: str) -> None:
        """Charge the time since the last mark to `name`."""
        now = time.perf_counter()
        self.split[f"{name}_s"] = now - self._last
        self._last = now

    def finish(self) -> None:
        """Note the total: the first step has ended."""
        self.split["total_s"] = self.elapsed_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start of the process, or of the torchrun that started it."""
        return time.perf_counter() - self._begin


def _age_s(pid: int) -> float:
    """Return the seconds since a process started (proc(5), field 22 of stat)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
