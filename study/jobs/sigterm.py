"""The end by SIGTERM: Snakemake ends within seconds, its Slurm jobs go on."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path


def exit_on_sigterm() -> None:
    """Have SIGTERM end Snakemake at once, before the first job and whatever Slurm is asked."""

    def leave(number: int, frame: object) -> None:
        sys.exit("Ended by SIGTERM; nothing was submitted.")

    signal.signal(signal.SIGTERM, leave)


def leave_on_sigterm(leave: Callable[[], None]) -> None:
    """Have SIGTERM call `leave` in a thread, whatever Snakemake waits for."""

    def start(number: int, frame: object) -> None:
        threading.Thread(target=leave, daemon=True).start()

    signal.signal(signal.SIGTERM, start)


def terminate_children() -> None:
    """Ask the local jobs to end: all processes below this one."""
    waiting = [os.getpid()]
    while waiting:
        for children in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for pid in map(int, children.read_text().split()):
                waiting.append(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
