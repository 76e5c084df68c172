"""AdamW's update of weights where torch's fused kernel does not fit."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.config import OptimConfig


def plain_adamw(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    step_count: Tensor,
    rate: float | Tensor,
    config: OptimConfig,
    decay: float,
) -> None:
    """Do what the fused kernel does to a weight, one operation at a time."""
    weight.mul_(1 - rate * decay)
    mean.lerp_(gradient, 1 - config.beta1)
    square.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
    count = step_count.double()  # as in the kernel: 1 - 0.9999 is 0.02% off in float32
    root = (square / (1 - config.beta2**count)).sqrt()
    weight.sub_(rate / (1 - config.beta1**count) * mean / (root + config.epsilon))


class CopiedGroup:
    """Weights with the same weight decay that have bf16 copies, and their moments.

    On a GPU, one kernel per weight reads weight, gradient and moments, and writes weight, moments
    and copy. torch's fused kernel would also write back the clipped gradient.
    """

    def __init__(
        self,
        decay: float,
        weights: Sequence[Tensor],
        moments: Sequence[tuple[Tensor, Tensor]],
        copies: Mapping[Tensor, Tensor],
        step_count: Tensor,
    ) -> None:
        self._decay = decay
        self._step_count = step_count
        self._members = [
            (weight, copies[weight], mean, square)
            for weight, (mean, square) in zip(weights, moments, strict=True)
        ]

    def step(self, rate: float | Tensor, config: OptimConfig, scale: Tensor | None) -> None:
        """Update the weights and their copies; divide the gradients by `scale`, if given."""
        update = self._update_on_gpu if self._step_count.is_cuda else self._update
        update(rate, config, scale)

    def _update(self, rate: float | Tensor, config: OptimConfig, scale: Tensor | None) -> None:
        for weight, copy, mean, square in self._members:
            gradient = _gradient(weight, copy).to(weight.dtype)
            if scale is not None:
                gradient = gradient / scale
            count = self._step_count
            plain_adamw(weight, gradient, mean, square, count, rate, config, self._decay)
            copy.copy_(weight)

    def _update_on_gpu(
        self, rate: float | Tensor, config: OptimConfig, scale: Tensor | None
    ) -> None:
        from trainer.model import triton_kernels

        count = self._step_count
        if not isinstance(rate, Tensor):
            rate = torch.full_like(count, rate)
        if scale is None:
            scale = torch.ones_like(count)
        # 1 - beta^count, which would lose digits in float32.
        logs = [math.log(beta) if beta else -math.inf for beta in (config.beta1, config.beta2)]
        exponents = torch.stack([count.double() * log for log in logs])
        factors = torch.stack([rate, scale, *(-torch.expm1(exponents)).float()])
        for weight, copy, mean, square in self._members:
            gradient = _gradient(weight, copy)
            triton_kernels.adamw(weight, gradient, mean, square, copy, factors, config, self._decay)


def _gradient(weight: Tensor, copy: Tensor) -> Tensor:
    gradient = copy.grad if copy.requires_grad else weight.grad
    assert gradient is not None, "a weight has no gradient"
    return gradient
