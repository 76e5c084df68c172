"""One optimizer step: forward, backward, clip, update. Nothing here waits for the device."""

import time

from torch import Tensor

from trainer.execution.layout import synchronised
from trainer.execution.precision import precision
from trainer.loop.feed import to_device
from trainer.loop.learner import Learner


def train_step(learner: Learner, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a batch (grad_acc_steps, B, T + 1) of the loader.

    Returns the mean loss of this process's sequences and the norm of all gradients, scalars on the
    device.
    """
    tokens = to_device(batch, learner.device)
    if learner.graph is not None:
        return learner.graph(tokens)
    return compute_step(learner, tokens)


def compute_step(learner: Learner, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Do `train_step` on token ids that are on the device, int64."""
    learner.optimizer.zero_grad()
    loss = compute_gradients(learner, tokens)
    norm = learner.optimizer.grad_norm()
    learner.optimizer.step(norm)
    return loss, norm


def compute_gradients(learner: Learner, tokens: Tensor) -> Tensor:
    """Accumulate the gradients of all micro-batches; return the mean loss."""
    count, total = len(tokens), None
    for index in range(count):
        with synchronised(learner.trained, index == count - 1):
            loss = forward_backward(learner, tokens[index], count)
        total = loss if total is None else total + loss
    assert total is not None
    return total


def forward_backward(learner: Learner, tokens: Tensor, count: int) -> Tensor:
    """Accumulate the gradients of one of `count` micro-batches (B, T + 1); return its share of the
    mean loss."""
    start = time.perf_counter()
    with precision(learner.choices.model_dtype, learner.device):
        loss: Tensor = learner.trained(tokens[:, :-1], tokens[:, 1:])
    learner.forward_s += time.perf_counter() - start
    if count > 1:
        loss = loss / count
    loss.backward()
    return loss.detach()
