"""A line after each training on this machine: how much is done, and when the rest should be.

Snakemake counts jobs, of which a training takes minutes or hours and any other a second.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from study.grid import Cell
from study.jobs.progress import later_day, time_in


class LocalProgress:
    """The trainings of an invocation, which run one by one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()
        self._weights: dict[str, float] = {}
        self._left: dict[str, float] = {}

    def expect(self, cells: Sequence[Cell], seconds: Mapping[str, float | None]) -> None:
        """Take the cells to train, with the estimated time of each, s; if one is not known, their
        FLOPs on one GPU stand for the time."""
        known = {name: value for name, value in seconds.items() if value}
        if len(known) < len(cells):
            known = {cell.name: _work(cell) for cell in cells}
        self._start, self._weights, self._left = self._clock(), known, dict(known)

    def finished(self, cell: Cell) -> str:
        """Note that a run is complete; return the line. The pace is that of the runs so far."""
        self._left.pop(cell.name, None)
        total, left = sum(self._weights.values()), sum(self._left.values())
        count = len(self._weights) - len(self._left)
        line = f"[{datetime.now():%H:%M}] {count} of {len(self._weights)} trainings finished"
        if not left or left == total:
            return f"{line}."
        remaining_s = (self._clock() - self._start) * left / (total - left)
        end = time_in(remaining_s)
        share = f"{1 - left / total:.0%} of their time"
        return f"{line}, {share}; done at about {end:%H:%M}{later_day(end)}."


def _work(cell: Cell) -> float:
    return cell.flops_per_step * cell.run.steps / cell.gpus
