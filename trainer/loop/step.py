"""One optimizer step: forward, backward, clip, update. Nothing here waits for the device."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from trainer.execution.compiling import uncompiled
from trainer.execution.graph import StepGraph
from trainer.execution.layout import synchronised
from trainer.execution.precision import precision
from trainer.folder.failure import DoesNotFit
from trainer.loop.feed import to_device
from trainer.loop.learner import Learner

Result = TypeVar("Result")


def train_step(learner: Learner, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a batch (grad_acc_steps, B, T + 1) of the loader.

    Returns the mean loss of this process's sequences and the norm of all gradients, on the device:
    nothing here waits for it.
    """
    tokens = to_device(batch, learner.device)
    if learner.graph is not None:
        return learner.graph(tokens)
    return compute_step(learner, tokens)


def first_step(learner: Learner, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take the first step of an attempt; raise DoesNotFit if memory runs out in it."""
    return _telling_what_fits(learner, lambda: train_step(learner, batch))


def rehearse(learner: Learner) -> None:
    """Dry-run a step, so that the first real one starts from the same state as later ones.

    Code is compiled. DDP has laid out its buckets in the order in which gradients arrive, as it
    does after the first step of a run: a sum over three processes or more, and with it the losses
    of a resumed run, depends on that layout. Raises DoesNotFit if memory runs out.
    """
    _telling_what_fits(learner, lambda: compile_ahead(learner))


def _telling_what_fits(learner: Learner, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except torch.OutOfMemoryError as error:
        cause = error
    # Outside of the handler, whose traceback would hold the memory of the step.
    cause.__traceback__ = None
    raise DoesNotFit(cause, find_fitting_batch(learner))


def compute_step(learner: Learner, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Do the work of `train_step` on token ids that are on the device, int64."""
    learner.optimizer.zero_grad()
    loss = compute_gradients(learner, tokens)
    norm = learner.optimizer.grad_norm()
    learner.optimizer.step(norm)
    return loss, norm


def compute_gradients(learner: Learner, tokens: Tensor) -> Tensor:
    """Add up the gradients of all micro-batches; return the mean loss."""
    count, total = len(tokens), None
    for index in range(count):
        with synchronised(learner.trained, index == count - 1):
            loss = _backward(learner, tokens[index], count)
        total = loss if total is None else total + loss
    assert total is not None
    return total


def _backward(learner: Learner, tokens: Tensor, count: int) -> Tensor:
    """Add the gradients of one of `count` micro-batches (B, T + 1); return its part of the loss."""
    with precision(learner.choices.model_dtype, learner.device):
        loss: Tensor = learner.trained(tokens[:, :-1], tokens[:, 1:])
    if count > 1:
        loss = loss / count
    loss.backward()
    return loss.detach()


def find_fitting_batch(learner: Learner) -> int | None:
    """Return the most sequences of a batch, a divisor of their number, that fit into memory.

    Called when all of them did not. None if not even one does, or if weights are sharded over
    processes, which would have to try together. Tries forward and backward pass; talks to no one.
    """
    if learner.is_sharded:
        return None
    total, _ = learner.batch_shape
    for size in (n for n in range(total // 2, 0, -1) if total % n == 0):
        learner.optimizer.zero_grad()
        if learner.device.type == "cuda":
            torch.cuda.empty_cache()  # what the attempt before left in pieces
        try:
            # Compiled, each size would take as long as the first step.
            with uncompiled(), synchronised(learner.trained, last_micro_step=False):
                _backward(learner, _zeros(learner, size), count=1)
        except torch.OutOfMemoryError:
            continue
        return size
    return None


def compile_ahead(learner: Learner) -> None:
    """Compile forward and backward pass on a batch of zeros: the first step finds them there."""
    sequences, _ = learner.batch_shape
    compute_gradients(learner, _zeros(learner, sequences)[None])
    learner.optimizer.zero_grad()


def _zeros(learner: Learner, sequences: int) -> Tensor:
    """Return token ids of a micro-batch, (B, T + 1): what a pass takes does not depend on them."""
    _, length = learner.batch_shape
    return torch.zeros((sequences, length + 1), dtype=torch.int64, device=learner.device)


def capture_later(learner: Learner, rate: float) -> None:
    """Make the steps to come one CUDA graph, after the first few."""
    # The learning rate is read when the graph is replayed, not when it was captured.
    learner.optimizer.rate = torch.tensor(rate, device=learner.device)
    learner.graph = StepGraph(lambda tokens: compute_step(learner, tokens))
