"""The first steps of an attempt: compilation, the batch that fits into memory, the CUDA graph."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from trainer.collectives import waiting_for_all
from trainer.config import RunConfig
from trainer.execution.compiling import uncompiled
from trainer.execution.graph import DDP_STEPS, EAGER_STEPS, StepGraph
from trainer.execution.layout import has_buckets, synchronised
from trainer.folder.failure import DoesNotFit
from trainer.loop.learner import Learner
from trainer.loop.step import compute_step, forward_backward, train_step
from trainer.model.adamw import AdamW
from trainer.model.weight_copies import keep_copies
from trainer.world import World

Result = TypeVar("Result")


def rehearse(learner: Learner, world: World) -> None:
    """Dry-run a step, so that the first real one starts from the same state as later ones.

    It compiles the code, and makes DDP rebuild its buckets in the order in which gradients arrive,
    as DDP does after the first backward pass. Sums over three or more processes, and so the losses
    of a resumed run, depend on the buckets. One process of a machine compiles before the others,
    which then load its code from the cache. Raises DoesNotFit if memory runs out.
    """
    alone = learner.choices.compiled and world.local_size > 1 and not learner.is_sharded
    if alone:
        with waiting_for_all(world):
            if world.local_rank == 0:
                _finding_what_fits(learner, lambda: compile_ahead(learner, communicates=False))
    _finding_what_fits(learner, lambda: compile_ahead(learner))


def compile_ahead(learner: Learner, communicates: bool = True) -> None:
    """Compile the forward and backward pass on a batch of zeros, ahead of the first step."""
    sequences, _ = learner.batch_shape
    with synchronised(learner.trained, is_last=communicates):
        forward_backward(learner, _zeros(learner, sequences), count=1)
    learner.optimizer.zero_grad()


def prepare_steps(learner: Learner, config: RunConfig) -> None:
    """Apply the choices that concern whole steps; call it once the weights are there.

    With `weight_copies`, from now on only the optimizer may change weights.
    """
    if learner.choices.weight_copies:
        assert isinstance(learner.optimizer, AdamW)
        take_gradients = copies_take_gradients(config, has_buckets(learner.trained))
        learner.optimizer.use_copies(keep_copies(learner.model.layers, take_gradients))
    if learner.choices.cuda_graphs:
        capture_later(learner, config.optim.lr)


def copies_take_gradients(config: RunConfig, with_ddp: bool) -> bool:
    """Say whether gradients are left at the copies of weights, in bf16: where none are summed."""
    return config.grad_acc_steps == 1 and not with_ddp


def capture_later(learner: Learner, rate: float) -> None:
    """Capture the step as a CUDA graph after a few eager steps."""
    # A tensor, so that replays read the current learning rate, not that of the capture.
    learner.optimizer.rate = torch.tensor(rate, device=learner.device)
    eager_steps = DDP_STEPS if has_buckets(learner.trained) else EAGER_STEPS
    learner.graph = StepGraph(
        lambda tokens: compute_step(learner, tokens), eager_steps, learner.optimizer.zero_grad
    )
    learner.warm_up_steps = eager_steps + 1


def warm_up_step(learner: Learner, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take one of the first steps of an attempt; raise DoesNotFit if memory runs out."""
    return _finding_what_fits(learner, lambda: train_step(learner, batch))


def _finding_what_fits(learner: Learner, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except torch.OutOfMemoryError as error:
        cause = error
    # Outside the handler, whose traceback would keep the step's memory alive.
    cause.__traceback__ = None
    raise DoesNotFit(cause, find_fitting_batch(learner))


def find_fitting_batch(learner: Learner) -> int | None:
    """Return the largest proper divisor of the micro-batch size that fits into memory.

    None if not even one sequence fits, or if weights are sharded: then all ranks would have to try
    together. Tries a forward and backward pass, without communication.
    """
    if learner.is_sharded:
        return None
    total, _ = learner.batch_shape
    for size in (n for n in range(total // 2, 0, -1) if total % n == 0):
        learner.optimizer.zero_grad()
        if learner.device.type == "cuda":
            torch.cuda.empty_cache()  # the previous try has fragmented it
        try:
            # Compiling for each size would take as long as the first step.
            with uncompiled(), synchronised(learner.trained, is_last=False):
                forward_backward(learner, _zeros(learner, size), count=1)
        except torch.OutOfMemoryError:
            continue
        return size
    return None


def _zeros(learner: Learner, sequences: int) -> Tensor:
    """Return token ids of a micro-batch, (B, T + 1); time and memory do not depend on them."""
    _, length = learner.batch_shape
    return torch.zeros((sequences, length + 1), dtype=torch.int64, device=learner.device)
