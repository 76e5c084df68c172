"""What a process of a run leaves behind when it fails: its traceback, and failure.json.

The traceback is printed under the name of the rank, since the processes of a run share one log.
failure.json is the first failure's, the cause of those that follow it on other ranks; it tells
whoever starts runs whether starting this one again can help.
"""

import contextlib
import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.config import ConfigError, RunConfig
from trainer.parallel import World

FILE = "failure.json"


@contextlib.contextmanager
def reported(config: RunConfig, world: World) -> Iterator[None]:
    """Report an exception of the run, and end the process with exit code 1.

    With several processes it ends at once, without the interpreter's own end: collectives that are
    still under way would hold it up until they time out.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        facts = describe(error, config, world)
        sys.stdout.flush()
        print(f"{facts['message']}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        write_first(Path(config.dump_dir), facts)
        if world.size > 1:
            os._exit(1)
        sys.exit(1)


def describe(error: Exception, config: RunConfig, world: World) -> dict[str, Any]:
    """Return what failure.json says: the kind of failure, where, what helps, and whether to retry.

    Running out of GPU memory is the same in every attempt; anything else may have been the
    machine's fault.
    """
    where = f"rank {world.rank} of {world.size} on {socket.gethostname()}"
    message = f"{where} failed: {type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        message = f"{where} is out of GPU memory. {_remedy(config, world, error)}"
        return {"kind": "gpu_out_of_memory", "rank": world.rank, "retry": False, "message": message}
    return {"kind": "error", "rank": world.rank, "retry": True, "message": message}


class DoesNotFit(torch.OutOfMemoryError):
    """The first step of an attempt is out of memory, and smaller batches have been tried."""

    def __init__(self, cause: Exception, fits: int | None) -> None:
        """`fits`: the largest number of sequences that does, which divides the batch; or None."""
        super().__init__(str(cause))
        self.fits = fits


def _remedy(config: RunConfig, world: World, error: Exception) -> str:
    batch, passes = config.data.batch_size, config.grad_acc_steps
    tokens = f"data.batch_size = {batch} sequences of {config.data.seq_len} tokens do not fit. "
    smaller = "a shorter data.seq_len, a smaller model, or activation_checkpointing: full"
    if isinstance(error, DoesNotFit):
        if error.fits is None:
            return f"{tokens}Nor does one sequence. What helps: {smaller}."
        size, found = error.fits, f"The largest that does: {error.fits}. "
    elif batch % 2:
        return f"{tokens}What helps: {smaller}."
    else:
        size, found = batch // 2, ""
    global_batch = config.sequences_per_step(world.size)
    return (
        f"{tokens}{found}What helps: data.batch_size={size} grad_acc_steps={batch // size * passes}"
        f", which keeps the global batch of {global_batch} sequences."
    )


def write_first(folder: Path, facts: dict[str, Any]) -> None:
    """Write failure.json unless another process of the run has. A full disk is no news here."""
    with contextlib.suppress(OSError), (folder / FILE).open("x") as file:
        file.write(json.dumps(facts) + "\n")


def forget(folder: Path) -> None:
    """Remove the failure of an earlier attempt."""
    (folder / FILE).unlink(missing_ok=True)
