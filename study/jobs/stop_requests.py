"""Slurm's requests to stop, handed on inside a job.

Slurm signals the processes that it started itself: before the time limit SIGUSR1, at preemption,
requeue and scancel SIGTERM. With proctrack/cgroup, the usual set-up, nothing below them hears of
it. In a job on one node that process is the Snakemake which the plugin starts in a step; it would
wait for its job to end while the trainer trains on, until both are killed.
"""

import os
import signal
import threading

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def hand_on_stop_requests() -> None:
    """In a step of a Slurm job, send each stop signal on to all of the step; elsewhere do nothing.

    Snakemake has a handler of its own for SIGTERM. It stays: the interpreter also writes the number
    of every signal that it handles to a file descriptor, which is read here.
    """
    if "SLURM_STEP_ID" not in os.environ:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    threading.Thread(target=_hand_on, args=(reader,), daemon=True).start()


def _hand_on(reader: int) -> None:
    handed_on = set()
    while number := os.read(reader, 1):
        # Each once: what goes to the group comes back to this process.
        if number[0] in STOP_SIGNALS and number[0] not in handed_on:
            handed_on.add(number[0])
            os.killpg(os.getpgrp(), number[0])
