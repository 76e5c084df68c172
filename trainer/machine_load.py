"""How busy others keep the machine while a run trains: a time measured on a busy one means little.

Counted are the cores' worth of CPU time that went to anything but the run's own processes, on the
cores that these may use: 1.5 is one and a half cores. The load average would not do. It counts the
run itself, it remembers the minutes before, and on Linux it also counts processes that wait for a
disk.

/proc/stat is the machine's, also in a container. Time that a hypervisor gave to other virtual
machines (steal) counts as taken by others. What others do on a GPU is not seen.

Imports no torch.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

SHORTEST_S = 0.25
"""Seconds between two counts: the kernel counts in hundredths, and on a machine with many cores it
takes nearly a millisecond to write /proc/stat."""

IDLE, IOWAIT = 3, 4
"""Columns of /proc/stat in which a core has nothing to do (proc(5))."""

COUNTED = 8
"""Columns of /proc/stat up to steal. The time of guests, which follows, is in user's too."""


@dataclass(frozen=True)
class Count:
    """CPU time of others up to a moment."""

    at_s: float
    others_s: float

    def cores_since(self, earlier: "Count") -> float:
        """Return the mean number of cores that others took."""
        # The run's own time and the cores' are counted apart: on an idle machine a difference of a
        # hundredth of a second may go either way.
        return max(0.0, (self.others_s - earlier.others_s) / (self.at_s - earlier.at_s))


class MachineLoad:
    """Counts the cores that others take, from one record of a run to the next."""

    def __init__(self, pids: Iterable[int], cores: Iterable[int], proc: Path = PROC) -> None:
        """Count processes other than `pids`, the run's on this machine, on its `cores`."""
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

        The first reading, at the first record, ends the start-up, whatever it took.
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
    """Return a process's CPU time with that of its children that have ended (proc(5): 14 to 17)."""
    fields = path.read_text().rpartition(")")[2].split()
    return sum(int(value) for value in fields[11:15])
