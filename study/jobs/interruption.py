"""The end of an invocation by a signal.

By Ctrl-C, the running jobs save and end, which is no failure. By SIGTERM, or by SIGHUP when a
terminal or a connection is closed, Snakemake ends within seconds, and its Slurm jobs go on.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

CTRL_C = "ctrl-c"


def note_ctrl_c(scheduler: Any) -> None:
    """Have Snakemake's scheduler know of Ctrl-C before its jobs end, as it does of SIGTERM.

    It waits for them. Another Ctrl-C would end it before them, with tracebacks; the jobs get the
    signal themselves.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, as in a background job of a script
        return

    def note(number: int, frame: Any) -> None:
        if not is_stopped(scheduler):
            scheduler._user_kill = CTRL_C
            before(number, frame)

    signal.signal(signal.SIGINT, note)


def is_stopped(scheduler: Any) -> bool:
    """Return whether Ctrl-C has ended Snakemake."""
    return bool(getattr(scheduler, "_user_kill", None) == CTRL_C)


def exit_on_sigterm() -> None:
    """Have a signal end Snakemake at once, before the first job and whatever Slurm is asked."""

    def leave(number: int, frame: object) -> None:
        sys.exit(f"Ended by {signal.Signals(number).name}; nothing was submitted.")

    _handle(leave)


def leave_on_sigterm(leave: Callable[[signal.Signals], None]) -> None:
    """Have a signal call `leave` in a thread, whatever Snakemake waits for."""

    def start(number: int, frame: object) -> None:
        threading.Thread(target=leave, args=(signal.Signals(number),), daemon=True).start()

    _handle(start)


def _handle(handler: Callable[[int, Any], None]) -> None:
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, handler)


def terminate_children() -> None:
    """Ask the local jobs to end: all processes below this one."""
    waiting = [os.getpid()]
    while waiting:
        for file in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            # Any process may end meanwhile, and its files with it.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children = [int(word) for word in file.read_text().split()]
                waiting += children
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
