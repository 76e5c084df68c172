"""Finds the rank that the others wait for.

The ranks of a run step together, so all have the same step time. A slow one shows in what each does
alone: waiting for data, the forward pass (which does not communicate in DDP), and its GPU's clock.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch

from trainer.collectives import PendingSum
from trainer.records import SlowRank
from trainer.world import World

LEAST_SHARE = 0.2
"""Share of a step from which a rank is called slow: less is noise on CPUs."""


class OwnWork(NamedTuple):
    """What a rank does alone, per step of an interval; 0 if it is not known."""

    data_s: float
    """Waiting for data, s."""
    forward_s: float
    """The process's time in forward passes, s; on a GPU that is launching kernels."""
    clock_mhz: float
    """Clock of its GPU."""


def find_slow_rank(
    works: Sequence[OwnWork], step_s: float, hosts: Sequence[str]
) -> SlowRank | None:
    """Return the rank that is furthest behind the median; None if none is far behind.

    `works` and `hosts` are each rank's, in steps of `step_s`. Of an even number of ranks the faster
    one in the middle is the median, so that one of two can be slow.
    """
    data, forward, clocks = zip(*works, strict=True)
    shares = [
        (part, [(own - statistics.median_low(times)) / step_s for own in times])
        for part, times in (("data", data), ("forward", forward))
    ]
    if min(clocks) > 0:
        shares.append(("clock", [1 - own / statistics.median_high(clocks) for own in clocks]))
    part, values = max(shares, key=lambda item: max(item[1]))
    share = max(values)
    rank = values.index(share)
    if share < LEAST_SHARE:
        return None
    return SlowRank(rank=rank, host=hosts[rank], part=part, share=share)


class SlowRanks:
    """Compares the ranks from record to record.

    The numbers travel over the CPU group while training goes on, and are read at the next record,
    so that nothing waits for them.
    """

    def __init__(self, world: World, hosts: Sequence[str]) -> None:
        """`hosts` are the machines of the ranks."""
        self._world, self._hosts = world, hosts
        self._tables = PendingSum()
        self._warm = False

    def compare(self, own: OwnWork, step_s: float) -> SlowRank | None:
        """Contribute an interval with steps of `step_s`; return the slow rank of the one before.

        All ranks call it at the same records. The first interval, which has the first step, is left
        out.
        """
        if self._world.size == 1:
            return None
        table = self._tables.receive()
        if self._warm:
            # A row from each rank: the sum has them all.
            rows = torch.zeros(self._world.size, len(own) + 1, dtype=torch.float64)
            rows[self._world.rank] = torch.tensor([*own, step_s], dtype=torch.float64)
            self._tables.start(rows)
        self._warm = True
        if table is None:
            return None
        works = [OwnWork(*row) for row in table[:, :-1].tolist()]
        return find_slow_rank(works, float(table[0, -1]), self._hosts)

    def close(self) -> None:
        """Wait for numbers that are on the way."""
        self._tables.receive()
