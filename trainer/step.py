"""One optimizer step: forward, backward, clip, update. Nothing here waits for the device."""

import torch
from torch import Tensor

from trainer.feed import to_device
from trainer.graph import StepGraph
from trainer.layout import synchronised
from trainer.parallel import precision
from trainer.session import Session


def train_step(session: Session, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a batch (grad_acc_steps, B, T + 1) of the session's loader.

    Returns the mean loss of this process's sequences and the norm of all gradients, on the device:
    nothing here waits for it.
    """
    tokens = to_device(batch, session.world.device)
    if session.graph is not None:
        return session.graph(tokens)
    return compute_step(session, tokens)


def compute_step(session: Session, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Do the work of `train_step` on token ids that are on the device, int64."""
    session.optimizer.zero_grad()
    loss = compute_gradients(session, tokens)
    norm = session.optimizer.grad_norm()
    session.optimizer.step(norm)
    return loss, norm


def compute_gradients(session: Session, tokens: Tensor) -> Tensor:
    """Add up the gradients of all micro-batches; return the mean loss."""
    settings, model, device = session.config.distributed, session.trained, session.world.device
    passes, total = len(tokens), None
    for index in range(passes):
        micro = tokens[index]
        with synchronised(model, index == passes - 1):
            with precision(settings, device):
                loss = model(micro[:, :-1], micro[:, 1:])
            if passes > 1:
                loss = loss / passes
            loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def compile_ahead(session: Session) -> None:
    """Compile forward and backward pass on a batch of zeros: the first step finds them there."""
    config, device = session.config, session.world.device
    shape = (1, config.data.batch_size, config.data.seq_len + 1)
    compute_gradients(session, torch.zeros(shape, dtype=torch.int64, device=device))
    session.optimizer.zero_grad()
    session.startup.mark("compile")


def capture_later(session: Session) -> None:
    """Make the steps to come one CUDA graph, after the first few."""
    # The learning rate is read where the graph is replayed, not where it was captured.
    rate = torch.tensor(session.config.optim.lr, device=session.world.device)
    session.optimizer.rate = rate
    session.graph = StepGraph(lambda tokens: compute_step(session, tokens))
