"""Gradients as optimizers use them: their norm, clipping, and this process's shards of them."""

import torch
from torch import Tensor

CLIP_EPSILON = 1e-6
"""Added to the norm when clipping, as in torch.nn.utils.clip_grad_norm_."""


class WithGradients:
    """What optimizers do alike with the gradients of their parameters."""

    leaves: list[Tensor]
    """The tensors at which the backward pass leaves the gradients of the parameters."""

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for leaf in self.leaves:
            leaf.grad = None

    def grad_norm(self) -> Tensor:
        """Return the norm of all gradients together, a scalar on the device."""
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for leaf in self.leaves:
            if leaf.grad is not None:
                by_dtype.setdefault(leaf.grad.dtype, []).append(leaf.grad)
        norms = [
            norm
            for dtype, gradients in by_dtype.items()  # a kernel takes tensors of one dtype
            for norm in torch._foreach_norm(
                gradients, dtype=torch.float32 if dtype == torch.bfloat16 else None
            )
        ]
        return full(torch.linalg.vector_norm(torch.stack(norms)))


def clip_divisor(norm: Tensor | None, clip: float | None) -> Tensor | None:
    """Return what gradients of this norm are divided by; None if they are not clipped."""
    if clip is None or norm is None:
        return None
    return ((norm + CLIP_EPSILON) / clip).clamp(min=1.0)


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def shard_like(gradient: Tensor, weight: Tensor) -> Tensor:
    """Return a gradient with the placements of its weight.

    Under sequence parallelism the gradient of a replicated weight is still a partial sum.
    """
    placements = getattr(weight, "placements", None)
    if placements is None:
        return gradient
    return gradient.redistribute(placements=placements)  # type: ignore[attr-defined]


def full(tensor: Tensor) -> Tensor:
    """Return the full tensor of a DTensor; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
