"""Reports of a failed process: its traceback, and failure.json.

The traceback is printed with the rank, since the processes of a run share one log. failure.json
describes the first failure, which causes those on other ranks, and says whether a retry can help.
"""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.config import RunConfig
from trainer.files import FULL_DISK, FileGoneError
from trainer.launcher import tell_launcher
from trainer.problems import ConfigError
from trainer.ranks import read_ranks
from trainer.records import FAILURE, Failure
from trainer.world import World


@contextlib.contextmanager
def refusals_noted(folder: Path) -> Iterator[None]:
    """Write a ConfigError to failure.json as a failure that a retry cannot fix, and re-raise it."""
    try:
        yield
    except ConfigError as error:
        forget(folder)  # the failure of an earlier attempt
        rank = read_ranks().rank
        refusal = Failure(kind="configuration", rank=rank, retry=False, message=str(error))
        write_first(folder, refusal)
        raise


@contextlib.contextmanager
def reported(config: RunConfig, world: World) -> Iterator[None]:
    """Report an exception of the run, and exit with code 1.

    With several processes, exit without the interpreter's shutdown: pending collectives would delay
    it until they time out.
    """
    try:
        yield
    except (ConfigError, SystemExit, GeneratorExit):
        raise
    # torch's CheckpointException derives from BaseException, like KeyboardInterrupt.
    except BaseException as error:
        failure = describe(error, config, world)
        text = failure.message
        if not _is_explained(error):
            text += f"\n{traceback.format_exc()}"
        with contextlib.suppress(OSError):  # nobody may read it any more
            sys.stdout.flush()
        with contextlib.suppress(OSError):
            print(text.rstrip(), file=sys.stderr, flush=True)
        write_first(Path(config.dump_dir), failure)
        tell_launcher(os.environ, failure.message)
        if world.size > 1:
            os._exit(1)
        sys.exit(1)


def describe(error: BaseException, config: RunConfig, world: World) -> Failure:
    """Return the content of failure.json: the kind of failure, where, the remedy, whether to retry.

    Out of GPU memory recurs in every attempt; anything else may have been the machine's fault, such
    as memory that other processes have in use.
    """
    where = f"rank {world.rank} of {world.size} on {socket.gethostname()}"
    full = find_full_disk(error)
    if full is None:
        reason = reason_of(error)
    else:
        reason = f"{full.filename or config.dump_dir}: {os.strerror(full.errno or 0)}"
    message = f"{where} failed: {reason}"
    if isinstance(error, torch.OutOfMemoryError):
        message = f"{where} is out of GPU memory. {_remedy(config, world, error)}"
        return Failure(kind="gpu_out_of_memory", rank=world.rank, retry=False, message=message)
    if is_out_of_memory(error):
        message = f"{where} is out of memory. {_remedy(config, world, error)} ({reason})"
    return Failure(rank=world.rank, retry=True, message=message)


def reason_of(error: BaseException) -> str:
    """Return the type and text of an exception, on one line.

    Of torch's CheckpointException, whose text contains the tracebacks of all ranks, this is what
    the first rank raised.
    """
    failures = getattr(error, "failures", None)
    if isinstance(failures, dict) and failures:
        rank, (cause, _) = next(iter(failures.items()))
        return f"{type(error).__name__} of rank {rank}: {reason_of(cause)}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_explained(error: BaseException) -> bool:
    """Say whether the message is enough, without a traceback."""
    is_explained = isinstance(error, (BrokenPipeError, FileGoneError)) or is_out_of_memory(error)
    return is_explained or find_full_disk(error) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether torch found too little of the machine's own memory for a tensor."""
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def find_full_disk(error: BaseException | None) -> OSError | None:
    """Return the exception that says that a disk is full, if that is what led to `error`."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            return error
        failures = getattr(error, "failures", None)
        for cause, _ in failures.values() if isinstance(failures, dict) else ():
            found = find_full_disk(cause)
            if found is not None:
                return found
        error = error.__cause__ or error.__context__
    return None


class DoesNotFit(torch.OutOfMemoryError):
    """Out of memory in the first step of an attempt; smaller batches have been tried."""

    def __init__(self, cause: Exception, fits: int | None) -> None:
        """`fits`: the largest divisor of the batch size that fits, or None."""
        super().__init__(str(cause))
        self.fits = fits


def _remedy(config: RunConfig, world: World, error: BaseException) -> str:
    batch, micro_batches = config.data.batch_size, config.grad_acc_steps
    tokens = f"data.batch_size = {batch} sequences of {config.data.seq_len} tokens do not fit. "
    smaller = "a shorter data.seq_len, a smaller model, or activation_checkpointing: full"
    if isinstance(error, DoesNotFit):
        if error.fits is None:
            return f"{tokens}Not even one sequence fits. Try {smaller}."
        size, found = error.fits, f"The largest that fits: {error.fits}. "
    elif batch % 2:
        return f"{tokens}Try {smaller}."
    else:
        size, found = batch // 2, ""
    global_batch = config.sequences_per_step(world.size)
    return (
        f"{tokens}{found}Try data.batch_size={size} "
        f"grad_acc_steps={batch // size * micro_batches}, "
        f"which keeps the global batch of {global_batch} sequences."
    )


def write_first(folder: Path, failure: Failure) -> None:
    """Write failure.json unless another process of the run has written it.

    A full disk is ignored: the failure itself is already being reported.
    """
    with contextlib.suppress(OSError), (folder / FAILURE).open("x") as file:
        file.write(failure.to_json() + "\n")


def forget(folder: Path) -> None:
    """Remove the failure of an earlier attempt."""
    with contextlib.suppress(OSError):
        (folder / FAILURE).unlink()
