"""The interface of an optimizer, and how the one that the settings name is built."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.model.optimizers import OPTIMIZERS


class Optimizer(Protocol):
    """What the training loop and the checkpoints ask of an optimizer."""

    rate: float | Tensor
    """Learning rate of the next step; a tensor if a CUDA graph reads it."""
    parameters: Sequence[Tensor]
    """All that it trains."""

    def set_rate(self, value: float) -> None:
        """Set the learning rate of the next steps."""

    def zero_grad(self) -> None:
        """Forget the gradients."""

    def grad_norm(self) -> Tensor:
        """Return the norm of all gradients together, a scalar on the device."""

    def step(self, norm: Tensor | None = None) -> None:
        """Take a step; with the norm of the gradients they are clipped on the way."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state under the names of the weights: views that loading may fill."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Return the optimizer that the settings name."""
    kind = OPTIMIZERS[config.name]
    build = getattr(importlib.import_module(kind.module), kind.cls)
    optimizer: Optimizer = build(model, config)
    return optimizer
