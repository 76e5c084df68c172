"""Which of a run's processes this one is, from the variables that torchrun sets. Imports no torch.

They are never Slurm's: inside a job step SLURM_PROCID and SLURM_NTASKS describe the step, not the
ranks that torchrun started in it.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a run."""

    rank: int
    size: int
    local_rank: int
    """Index among the processes on this machine, and of this process's GPU."""
    local_size: int
    """Processes on this machine."""


def read_ranks() -> Ranks:
    """Return this process's place, from torchrun's variables; a single process without them."""
    variables = ("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)
    return Ranks(*(int(os.environ.get(name, default)) for name, default in variables))
