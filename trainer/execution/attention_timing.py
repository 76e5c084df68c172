"""Benchmark of attention kernels, interleaved and on a warmed-up device.

An idle GPU runs at a fraction of its clock rate and needs some tenths of a second of work to raise
it. Kernels timed one after the other run at different clock rates, so the last one would win. Here
the device is warmed up first, then the kernels alternate, and the shortest time of each counts,
since disturbances only make a run longer.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

from trainer.execution.sdpa import UNFIT

Seconds = Callable[[str], float]
"""Runs a forward and backward pass with the kernel of that name; returns the seconds it took."""

WARM_UP_S = 0.5
"""Seconds of warm-up; an H200 reaches its full clock rate in less."""

TIMING_S = 0.3
"""Seconds of timed rounds."""

ROUNDS = 5
"""Least number of timed rounds, however long they take."""

MARGIN = 0.02
"""Kernels this close to the fastest count as equally fast."""


def fastest(
    names: Sequence[str], seconds: Seconds, clock: Callable[[], float] = time.perf_counter
) -> str | None:
    """Return the fastest of the kernels that run here; None if none does.

    `names` are in order of preference: of equally fast kernels the first is returned.
    """
    usable = [name for name in names if _runs(name, seconds)]
    if len(usable) < 2:
        return usable[0] if usable else None
    _time_alternating(usable, seconds, clock, WARM_UP_S, rounds=1)
    return first_within_margin(_time_alternating(usable, seconds, clock, TIMING_S, ROUNDS))


def first_within_margin(shortest: Mapping[str, float]) -> str:
    """Return the first kernel whose time is within the margin of the shortest.

    Without a margin, noise would decide between equally fast kernels, and repeating a run could
    change the kernel and with it the rounding errors in the losses.
    """
    limit = min(shortest.values()) * (1 + MARGIN)
    return next(name for name, value in shortest.items() if value <= limit)


def _runs(name: str, seconds: Seconds) -> bool:
    try:
        seconds(name)
    except UNFIT:
        return False
    return True


def _time_alternating(
    names: Sequence[str], seconds: Seconds, clock: Callable[[], float], for_s: float, rounds: int
) -> dict[str, float]:
    """Return each kernel's shortest time over rounds that run every kernel once.

    There are at least `rounds`, and as many as `for_s` seconds allow.
    """
    shortest = dict.fromkeys(names, math.inf)
    end, done = clock() + for_s, 0
    while done < rounds or clock() < end:
        for name in names:
            shortest[name] = min(shortest[name], seconds(name))
        done += 1
    return shortest
