"""The interface of an optimizer, and the function that builds one from the settings."""

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from trainer.config import OptimConfig
from trainer.model.optimizers import OPTIMIZERS


class Optimizer(Protocol):
    """What the training loop and checkpoints need of an optimizer."""

    rate: float | Tensor
    """Learning rate of the next step; a tensor if a CUDA graph reads it."""
    parameters: Sequence[Tensor]
    """The parameters it trains."""

    def set_rate(self, value: float) -> None:
        """Set the learning rate of the next steps."""

    def zero_grad(self) -> None:
        """Drop the gradients."""

    def grad_norm(self) -> Tensor:
        """Return the norm of all gradients together, a scalar on the device."""

    def step(self, norm: Tensor | None = None) -> None:
        """Take a step; given the norm of the gradients, clip them too."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state under the names of the weights; loading writes into these views."""


def build_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """Return the optimizer that the settings name."""
    kind = OPTIMIZERS[config.name]
    build = getattr(importlib.import_module(kind.module), kind.cls)
    optimizer: Optimizer = build(model, config)
    return optimizer
