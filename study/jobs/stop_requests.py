"""Forward Slurm's stop requests inside a job.

Slurm signals the processes that it started itself: SIGUSR1 before the time limit, SIGTERM at
preemption, requeue and scancel. With proctrack/cgroup, the usual setup, their child processes
receive nothing. In a job on one node, the signalled process is the Snakemake that the plugin starts
in a step; it would wait for its job while the trainer trains on, until both are killed.
"""

import os
import signal
import threading

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def forward_stop_requests() -> None:
    """In a step of a Slurm job, forward each stop signal to the whole step; elsewhere do nothing.

    Snakemake has its own handler for SIGTERM, which stays: the interpreter also writes the number
    of every handled signal to a file descriptor, which is read here.
    """
    if "SLURM_STEP_ID" not in os.environ:
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    threading.Thread(target=_forward, args=(reader,), daemon=True).start()


def _forward(reader: int) -> None:
    forwarded = set()
    while number := os.read(reader, 1):
        # Each only once: this process is in the group and receives the signal again.
        if number[0] in STOP_SIGNALS and number[0] not in forwarded:
            forwarded.add(number[0])
            os.killpg(os.getpgrp(), number[0])
