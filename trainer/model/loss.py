"""Chunked cross-entropy: the loss of a large vocabulary without all of its logits in memory.

With V = 128K and 16K tokens, the logits of a step take 8 GiB in fp32, and their gradient as much
again. Here the logits of one chunk of tokens at a time are computed, used for loss and gradients,
and freed; the backward pass scales the gradients that the forward pass has computed. The method is
Liger Kernel's (Hsu et al. 2024, arXiv:2410.10989), in torch's operations.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.linear import matmul_dtype

Gradient = Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]
"""`chunk_gradient`, or the same compiled."""


def chunk_gradient(
    logits_CV: Tensor, target_C1: Tensor, vocabulary: int, count: int
) -> tuple[Tensor, Tensor]:
    """Return the sum of the targets' log-probabilities, and the gradient of a mean over `count`.

    Logits from column `vocabulary` on are padding: their gradient is zero. The gradient has the
    logits' dtype.
    """
    log_CV = F.log_softmax(logits_CV[:, :vocabulary].float(), dim=-1)
    log_sum = log_CV.gather(1, target_C1).sum()
    if torch.compiler.is_compiling():  # a scatter would end the fused kernel
        ids_V = torch.arange(vocabulary, device=logits_CV.device)
        dlogits_CV = log_CV.exp() - (ids_V == target_C1).float()
    else:
        minus_C1 = torch.full_like(target_C1, -1.0, dtype=torch.float32)
        dlogits_CV = log_CV.exp_().scatter_add_(1, target_C1, minus_C1)
    dlogits_CV = (dlogits_CV / count).to(logits_CV.dtype)
    return log_sum, F.pad(dlogits_CV, (0, logits_CV.shape[1] - vocabulary))


def mean_loss(
    x: Tensor,
    weight_VD: Tensor,
    targets: Tensor,
    chunk: int,
    multiple: int = 1,
    gradient: Gradient = chunk_gradient,
) -> Tensor:
    """Return the mean cross-entropy of x W^T, a scalar in nats, `chunk` tokens at a time.

    `x` is (..., D) and `targets` (...). Matmuls run in the dtype of autocast, with W padded to a
    `multiple` of rows; the loss is float32, and so is the sum of the chunks' gradients of W.
    """
    x_ND, targets_N = x.flatten(0, -2), targets.flatten()
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x_ND = x_ND.to(dtype)
        if torch.is_grad_enabled():
            return _ChunkedLoss.apply(x_ND, weight_VD, targets_N, chunk, multiple, gradient)
        parts = zip(x_ND.split(chunk), targets_N.split(chunk), strict=True)
        weight_VD = weight_VD.to(dtype)
        losses = [
            F.cross_entropy((part_CD @ weight_VD.t()).float(), target_C, reduction="sum")
            for part_CD, target_C in parts
        ]
        return torch.stack(losses).sum() / len(targets_N)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        chunk: int,
        multiple: int,
        gradient: Gradient,
    ) -> Tensor:
        vocabulary, count = len(weight_VD), len(targets_N)
        narrow_VD = pad_rows(weight_VD.to(x_ND.dtype), multiple)
        total = torch.zeros((), device=x_ND.device)
        dx_ND = torch.empty_like(x_ND)
        dweight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)  # FSDP2's weight is bf16
        for start in range(0, count, chunk):
            part = slice(start, start + chunk)
            x_CD, target_C1 = x_ND[part], targets_N[part, None]
            log_sum, dlogits_CV = gradient(x_CD @ narrow_VD.t(), target_C1, vocabulary, count)
            total -= log_sum
            torch.mm(dlogits_CV, narrow_VD, out=dx_ND[part])
            dweight_VD += (dlogits_CV.t() @ x_CD)[:vocabulary]
        ctx.save_for_backward(dx_ND, dweight_VD)
        ctx.weight_dtype = weight_VD.dtype
        return total / count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dx_ND, dweight_VD = ctx.saved_tensors
        (scale,) = gradients
        # Of a dimension, or the scale itself would be rounded to bf16: one third by 0.2%.
        scaled_ND = torch.mul(dx_ND, scale.view(1, 1), out=torch.empty_like(dx_ND))
        return scaled_ND, (dweight_VD * scale).to(ctx.weight_dtype), None, None, None, None


def pad_rows(weight_VD: Tensor, multiple: int) -> Tensor:
    """Return a matrix with rows of zeros appended, to the next `multiple` of rows."""
    return F.pad(weight_VD, (0, 0, 0, -len(weight_VD) % multiple))
