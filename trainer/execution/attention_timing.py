"""The fastest kernel of attention: timed in turns, on a device that has warmed up.

An idle GPU runs at a fraction of its clock and needs some tenths of a second of work to raise it.
Kernels that are timed one after the other are timed at different clocks, and the one that comes
last wins by chance. Here they first work until the clock is up, then take turns, and of each kernel
the shortest time counts: what disturbs a pass only makes it longer.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

Seconds = Callable[[str], float]
"""Does one forward and backward pass with the kernel of that name; returns how long it took."""

UNFIT = (RuntimeError, ValueError, ImportError, AttributeError)
"""What a kernel raises that is missing, or unfit for the shape or the card: torch has no one error
for it."""

WARM_UP_S = 0.5
"""Work before the first pass that counts; an H200 has left its idle clock by then."""

TIMING_S = 0.3
"""Time for the passes that count."""

ROUNDS = 5
"""Passes of each kernel that count at least, however long they take."""

MARGIN = 0.02
"""Kernels this close to the fastest count as equally fast."""


def fastest(
    names: Sequence[str], seconds: Seconds, clock: Callable[[], float] = time.perf_counter
) -> str | None:
    """Return the fastest of the kernels that run here; None if none does.

    `names` are in order of preference: the first wins where several are equally fast.
    """
    able = [name for name in names if _runs(name, seconds)]
    if len(able) < 2:
        return able[0] if able else None
    _time_in_turns(able, seconds, clock, WARM_UP_S, rounds=1)
    return choose(_time_in_turns(able, seconds, clock, TIMING_S, ROUNDS))


def choose(shortest: Mapping[str, float]) -> str:
    """Return the first kernel whose time is within the margin of the shortest.

    Without a margin the noise of the timing would decide between kernels that are equally fast, and
    a run repeated would use another one, with other rounding errors in its losses.
    """
    limit = min(shortest.values()) * (1 + MARGIN)
    return next(name for name, value in shortest.items() if value <= limit)


def _runs(name: str, seconds: Seconds) -> bool:
    try:
        seconds(name)
    except UNFIT:
        return False
    return True


def _time_in_turns(
    names: Sequence[str], seconds: Seconds, clock: Callable[[], float], for_s: float, rounds: int
) -> dict[str, float]:
    """Return each kernel's shortest time in rounds of one pass each.

    Rounds go on for `for_s` seconds; there are at least `rounds`.
    """
    shortest = dict.fromkeys(names, math.inf)
    end, done = clock() + for_s, 0
    while done < rounds or clock() < end:
        for name in names:
            shortest[name] = min(shortest[name], seconds(name))
        done += 1
    return shortest
