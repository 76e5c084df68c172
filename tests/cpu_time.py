"""CPU time of a command: other programs share the machine."""

import resource
from collections.abc import Callable


def cpu_s(run: Callable[[], object]) -> float:
    """Return the CPU time of the processes that `run` starts and waits for, s."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
