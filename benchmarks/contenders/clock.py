"""Measurements of a contender's run."""

import json
import os
import resource
import time
from pathlib import Path

import torch


class Clock:
    """The end of each step, in seconds since the start of the process."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def note(self) -> None:
        """Note that a step has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(process_age_s())

    def report(self) -> str:
        """Return the run's measurements as a line of JSON."""
        steps = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        steady = sorted(steps[len(steps) // 10 :])
        measured = {
            "first_step_s": self.ends[0],
            "last_step_s": self.ends[-1],
            "step_s": steady[len(steady) // 2],
            "peak_memory_gib": peak_memory_gib(),
        }
        return json.dumps(measured)


def process_age_s() -> float:
    """Return the seconds since this process started (proc(5), field 22 of stat)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def peak_memory_gib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
