"""The end by Ctrl-C: the running jobs save and end, which is no failure."""

import signal
from typing import Any

CTRL_C = "ctrl-c"


def note_ctrl_c(scheduler: Any) -> None:
    """Have Snakemake's scheduler know of Ctrl-C before its jobs end, as it does of SIGTERM."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, as in a background job of a script
        return

    def note(number: int, frame: Any) -> None:
        scheduler._user_kill = CTRL_C
        before(number, frame)

    signal.signal(signal.SIGINT, note)


def is_stopped(scheduler: Any) -> bool:
    """Return whether Ctrl-C has ended Snakemake."""
    return bool(getattr(scheduler, "_user_kill", None) == CTRL_C)
