"""Refuses a start of several processes by a launcher that does not say which rank each one is, and
tells torchrun why a process fails.

The one module that reads a scheduler's variables: without torchrun's, each of the processes would
take itself for the whole run.
"""

import contextlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.problems import ConfigError

TASKS = {
    "SLURM_STEP_NUM_TASKS": "srun",  # SLURM_NTASKS also describes a batch script's allocation
    "OMPI_COMM_WORLD_SIZE": "mpirun",
    "PMI_SIZE": "mpirun",
}
"""Variable with the number of a launcher's processes -> the launcher."""


def check_launcher(environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Raise ConfigError if this is one of several processes without torchrun's variables."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return
    for variable, launcher in TASKS.items():
        tasks = _number(environment.get(variable))
        if tasks > 1:
            nodes = _number(environment.get("SLURM_STEP_NUM_NODES")) if launcher == "srun" else 1
            message = (
                f"found {tasks} processes of {launcher} ({variable}) without torchrun's RANK and "
                "WORLD_SIZE, so that each would train the whole run; expected "
                f"{_command(tasks, max(1, nodes), arguments)}"
            )
            raise ConfigError("command line", [message])


def tell_launcher(environment: Mapping[str, str], message: str) -> bool:
    """Have torchrun end what it prints about a failed process with the reason; return whether it
    will.

    It reads a file in the form of torch.distributed.elastic.multiprocessing.errors.
    """
    file = environment.get("TORCHELASTIC_ERROR_FILE")
    if file is not None:
        told = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        with contextlib.suppress(OSError):  # it goes without
            Path(file).write_text(json.dumps({"message": told}), encoding="utf-8")
            return True
    return False


def _command(tasks: int, nodes: int, arguments: Sequence[str]) -> str:
    """Return the command that starts as many ranks."""
    trainer = f"-m trainer {shlex.join(arguments)}".rstrip()
    each = -(-tasks // nodes)
    if nodes == 1:
        return f"torchrun --nproc_per_node={each} --standalone {trainer}"
    return (
        f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 torchrun --nnodes={nodes} "
        f"--nproc_per_node={each} --rdzv_backend=c10d --rdzv_id=$SLURM_JOB_ID "
        f"--rdzv_endpoint=FIRST_NODE:29500 {trainer}"
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
