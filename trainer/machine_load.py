"""The CPU load of other processes during a run: times measured on a busy machine mean little.

The load is the CPU time, in cores, of everything but the run's own processes, on the cores that the
run may use: 1.5 is one and a half cores. The load average does not fit: it includes the run itself
and the minutes before, and on Linux also processes that wait for a disk.

/proc/stat covers the whole machine, also in a container. Time that a hypervisor gave to other
virtual machines (steal) counts as load. The load of other processes on a GPU is not counted.

Imports no torch.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

SHORTEST_S = 0.25
"""Least seconds between two counts: the kernel counts in hundredths of a second, and reading
/proc/stat takes almost a millisecond on a machine with many cores."""

IDLE, IOWAIT = 3, 4
"""Columns of /proc/stat with idle time (proc(5))."""

COUNTED = 8
"""Columns of /proc/stat up to steal. Guest time, which follows, is included in user time."""


@dataclass(frozen=True)
class Count:
    """CPU time of other processes up to a moment."""

    at_s: float
    others_s: float

    def cores_since(self, earlier: "Count") -> float:
        """Return the mean number of cores that other processes used."""
        # The kernel counts the cores' time and the run's own separately: on an idle machine their
        # difference may be a hundredth of a second below zero.
        return max(0.0, (self.others_s - earlier.others_s) / (self.at_s - earlier.at_s))


class MachineLoad:
    """Counts the cores that other processes use, from one record of a run to the next."""

    def __init__(self, pids: Iterable[int], cores: Iterable[int], proc: Path = PROC) -> None:
        """`pids` are the run's processes on this machine, `cores` those that they may use."""
        self._pids, self._names = tuple(pids), {f"cpu{core}" for core in cores}
        self.cores = len(self._names)
        """Cores over which the load is counted."""
        self._proc = proc
        self._last = self._count()
        self._start: Count | None = None

    @property
    def mean(self) -> float | None:
        """Mean from the first record to the last count."""
        start, last = self._start, self._last
        if start is None or last is None or last.at_s == start.at_s:
            return None
        return last.cores_since(start)

    def read(self) -> float | None:
        """Return the mean since the last count; None until `SHORTEST_S` have passed, or if unknown.

        The first reading, at the first record, ends the start-up, however long that took.
        """
        last = self._last
        starting = self._start is None
        if last is None or (time.monotonic() - last.at_s < SHORTEST_S and not starting):
            return None
        now = self._count()
        self._last = now
        if starting:
            self._start = now
        return None if now is None else now.cores_since(last)

    def _count(self) -> Count | None:
        try:
            busy = sum(
                _busy_ticks(line)
                for line in (self._proc / "stat").read_text().splitlines()
                if line.partition(" ")[0] in self._names
            )
            own = sum(_own_ticks(self._proc / str(pid) / "stat") for pid in self._pids)
        except (OSError, ValueError, IndexError):
            return None
        return Count(time.monotonic(), (busy - own) / os.sysconf("SC_CLK_TCK"))


def _busy_ticks(line: str) -> int:
    ticks = [int(value) for value in line.split()[1 : 1 + COUNTED]]
    return sum(ticks) - ticks[IDLE] - ticks[IOWAIT]


def _own_ticks(path: Path) -> int:
    """Return the CPU time of a process and its ended children (proc(5), fields 14 to 17)."""
    fields = path.read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15])
