"""Snakemake as it is, except that it asks Slurm for its jobs' states every second. For tests only.

The Slurm plugin (2.8.0) first asks after 40 s, adds 10 s after every round in which no job ended,
and goes up to 180 s. That is right for jobs of hours and a controller shared by many, but it makes
a test of ten seconds last minutes. No option pins the interval:
--slurm-init-seconds-before-status-checks sets only where it starts, and
--seconds-between-status-checks is overwritten after the first round. So this launcher replaces the
one method that waits between two rounds.

    python tests/slurm/fast_snakemake.py --executor slurm --jobs 4 ...

FAST_SNAKEMAKE_SECONDS sets another interval.
"""

import asyncio
import os
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

INTERVAL_S = float(os.environ.get("FAST_SNAKEMAKE_SECONDS", "1"))


async def sleep_for_interval(executor: RemoteExecutor) -> None:
    """Stands in for RemoteExecutor.sleep, whose waits grow."""
    await asyncio.sleep(INTERVAL_S)


if __name__ == "__main__":
    RemoteExecutor.sleep = sleep_for_interval
    # Snakemake shows its own name in messages.
    sys.argv[0] = "snakemake"
    main()
