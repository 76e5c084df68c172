"""One optimizer step: forward, backward, clip, update. Nothing here waits for the device."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from trainer.compiling import uncompiled
from trainer.config import RunConfig
from trainer.failure import DoesNotFit
from trainer.feed import to_device
from trainer.graph import StepGraph
from trainer.layout import synchronised
from trainer.optim import AdamW
from trainer.parallel import World, is_sharded, precision
from trainer.session import Session

Result = TypeVar("Result")


class Training(Protocol):
    """What a step works with: a session, or less."""

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""

    @property
    def world(self) -> World:
        """This process and its peers."""

    @property
    def trained(self) -> nn.Module:
        """The module whose forward pass trains."""

    @property
    def optimizer(self) -> AdamW:
        """What its gradients go to."""


def train_step(session: Session, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a batch (grad_acc_steps, B, T + 1) of the session's loader.

    Returns the mean loss of this process's sequences and the norm of all gradients, on the device:
    nothing here waits for it.
    """
    tokens = to_device(batch, session.world.device)
    if session.graph is not None:
        return session.graph(tokens)
    return compute_step(session, tokens)


def first_step(session: Session, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Take the first step of an attempt; raise DoesNotFit where memory runs out in it."""
    return _telling_what_fits(session, lambda: train_step(session, batch))


def rehearse(session: Session) -> None:
    """Do the passes of a step and forget them: the first step finds all as later ones do.

    Code is compiled. DDP has laid out what it sums in the order in which gradients come, as it does
    after the first step of a run: a sum of three processes or more, and with it the losses of a run
    that goes on, depends on that layout. Raises DoesNotFit where memory runs out.
    """
    _telling_what_fits(session, lambda: compile_ahead(session))


def _telling_what_fits(session: Session, work: Callable[[], Result]) -> Result:
    try:
        return work()
    except torch.OutOfMemoryError as error:
        cause = error
    # Outside of the handler, whose traceback would hold the memory of the step.
    cause.__traceback__ = None
    raise DoesNotFit(cause, find_fitting_batch(session))


def compute_step(session: Training, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Do the work of `train_step` on token ids that are on the device, int64."""
    session.optimizer.zero_grad()
    loss = compute_gradients(session, tokens)
    norm = session.optimizer.grad_norm()
    session.optimizer.step(norm)
    return loss, norm


def compute_gradients(session: Training, tokens: Tensor) -> Tensor:
    """Add up the gradients of all micro-batches; return the mean loss."""
    passes, total = len(tokens), None
    for index in range(passes):
        with synchronised(session.trained, index == passes - 1):
            loss = _backward(session, tokens[index], passes)
        total = loss if total is None else total + loss
    assert total is not None
    return total


def _backward(session: Training, tokens: Tensor, passes: int) -> Tensor:
    """Add the gradients of one of `passes` micro-batches (B, T + 1); return its loss's part."""
    with precision(session.config.distributed, session.world.device):
        loss: Tensor = session.trained(tokens[:, :-1], tokens[:, 1:])
    if passes > 1:
        loss = loss / passes
    loss.backward()
    return loss.detach()


def find_fitting_batch(session: Session) -> int | None:
    """Return the most sequences of a batch, a divisor of their number, that fit into memory.

    Called when all of them did not. None where not even one does, or where weights are spread over
    processes, which would have to try together. Tries forward and backward pass; talks to no one.
    """
    config, world = session.config, session.world
    if is_sharded(config.distributed, world):
        return None
    total = config.data.batch_size
    for size in (n for n in range(total // 2, 0, -1) if total % n == 0):
        session.optimizer.zero_grad()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()  # what the attempt before left in pieces
        try:
            # Compiled, each size would take as long as the first step.
            with uncompiled(), synchronised(session.trained, last_micro_step=False):
                _backward(session, _zeros(session, size), passes=1)
        except torch.OutOfMemoryError:
            continue
        return size
    return None


def compile_ahead(session: Training) -> None:
    """Compile forward and backward pass on a batch of zeros: the first step finds them there."""
    compute_gradients(session, _zeros(session, session.config.data.batch_size)[None])
    session.optimizer.zero_grad()


def _zeros(session: Training, sequences: int) -> Tensor:
    """Return token ids of a micro-batch, (B, T + 1): what a pass takes does not depend on them."""
    shape = (sequences, session.config.data.seq_len + 1)
    return torch.zeros(shape, dtype=torch.int64, device=session.world.device)


def capture_later(session: Session) -> None:
    """Make the steps to come one CUDA graph, after the first few."""
    # The learning rate is read where the graph is replayed, not where it was captured.
    rate = torch.tensor(session.config.optim.lr, device=session.world.device)
    session.optimizer.rate = rate
    session.graph = StepGraph(lambda tokens: compute_step(session, tokens))
