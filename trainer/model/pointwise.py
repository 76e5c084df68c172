"""What lies between matmuls, as GPU kernels written in Triton.

Token embedding, sum with RMSNorm, rotary embedding, SwiGLU, and the gradient of the loss: each
reads and writes every tensor once. torch.compile's own code writes the gradient of a fused matrix
through `cat`, which reads its inputs twice, and sums that of a norm's weight in two more launches.
On a CPU they consist of torch's operators, for tests.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model import loss
from trainer.model.rotary import rotate

LIBRARY = torch.library.Library("trainer", "FRAGMENT")
LIBRARY.define("swiglu(Tensor gate_up) -> Tensor")
LIBRARY.define("swiglu_backward(Tensor dhidden, Tensor gate_up) -> Tensor")
LIBRARY.define("rotary(Tensor qkv, Tensor cos, Tensor sin, int kv_heads) -> Tensor")
LIBRARY.define("rotary_backward(Tensor dq, Tensor dk, Tensor dv, Tensor cos, Tensor sin) -> Tensor")
LIBRARY.define(
    "add_norm(Tensor x, Tensor branch, Tensor weight, float epsilon, ScalarType dtype)"
    " -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define(
    "add_norm_backward(Tensor? dtotal, Tensor dnormed, Tensor total, Tensor scale, Tensor weight,"
    " ScalarType branch_dtype) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.define("embed(Tensor table, Tensor tokens, ScalarType dtype) -> Tensor")
LIBRARY.define("embed_backward(Tensor dx, Tensor tokens, int vocabulary) -> Tensor")

OPS = torch.ops.trainer


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) * up, (..., F), of the gates and then the ups, (..., 2F)."""
    return _Swiglu.apply(gate_up)


def rotary(
    qkv_BTXE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor, kv_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated queries (B, T, H, E), rotated keys (B, T, K, E) and the values.

    `qkv_BTXE` is all three in this order, X = H + 2K; cos and sin are those of `rotary_table`.
    """
    return _Rotary.apply(qkv_BTXE, cos_T1E, sin_T1E, kv_heads)


def add_norm(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return x + branch, in the dtype of x, and its RMSNorm in `dtype`, both (..., D).

    `weight` (D,) is fp32, and so are the norm's statistics.
    """
    return _AddNorm.apply(x, branch, weight, epsilon, dtype)


def embed(table_VD: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows of an fp32 table for token ids (...), (..., D) in `dtype`.

    On a GPU, the gradient is summed in no fixed order.
    """
    return _Embed.apply(table_VD, tokens, dtype)


def chunk_gradient(
    logits_CV: Tensor, target_C1: Tensor, vocabulary: int, count: int
) -> tuple[Tensor, Tensor]:
    """Do what `loss.chunk_gradient` does; on a GPU, the gradient overwrites the logits."""
    if not logits_CV.is_cuda:
        return loss.chunk_gradient(logits_CV, target_C1, vocabulary, count)
    from trainer.model import triton_kernels

    return triton_kernels.chunk_gradient(logits_CV, target_C1, vocabulary, count)


class _Embed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.vocabulary = len(table)
        return OPS.embed(table, tokens, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        return OPS.embed_backward(gradients[0], tokens, ctx.vocabulary), None, None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        total, normed, scale = OPS.add_norm(x, branch, weight, epsilon, dtype)
        ctx.save_for_backward(total, scale, weight)
        ctx.set_materialize_grads(False)  # nothing else may use the sum
        ctx.branch_dtype = branch.dtype
        return total, normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        total, scale, weight = ctx.saved_tensors
        dx, dbranch, dweight = OPS.add_norm_backward(
            *gradients, total, scale, weight, ctx.branch_dtype
        )
        return dx, dx if ctx.branch_dtype == total.dtype else dbranch, dweight, None, None


class _Swiglu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return OPS.swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        return OPS.swiglu_backward(gradients[0], gate_up)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        rotated = OPS.rotary(qkv, cos, sin, kv_heads)
        q, k = rotated.split((rotated.shape[2] - kv_heads, kv_heads), dim=2)
        return q, k, qkv[:, :, -kv_heads:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return OPS.rotary_backward(*gradients, cos, sin), None, None, None


def _swiglu_cpu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def _swiglu_backward_cpu(dhidden: Tensor, gate_up: Tensor) -> Tensor:
    gate, up = gate_up.float().chunk(2, dim=-1)
    slope = torch.sigmoid(gate)
    dgate = dhidden * up * slope * (1 + gate * (1 - slope))
    return torch.cat((dgate, dhidden * gate * slope), dim=-1).to(gate_up.dtype)


def _rotary_cpu(qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int) -> Tensor:
    return rotate(qkv[:, :, :-kv_heads], cos, sin)


def _rotary_backward_cpu(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.cat((rotate(dq, cos, -sin), rotate(dk, cos, -sin), dv), dim=2)


def _add_norm_cpu(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    total = (x.float() + branch.float()).to(x.dtype)
    values = total.float()
    scale = torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + epsilon)
    return total, (values * scale * weight).to(dtype), scale


def _add_norm_backward_cpu(
    dtotal: Tensor | None,
    dnormed: Tensor,
    total: Tensor,
    scale: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    unit, dy = total.float() * scale, dnormed.float()
    dweight = (dy * unit).flatten(0, -2).sum(dim=0)
    dy = dy * weight
    along = (dy * unit).mean(dim=-1, keepdim=True)
    dx = (dy - unit * along) * scale
    if dtotal is not None:
        dx += dtotal.float()
    is_one = total.dtype == branch_dtype
    dbranch = total.new_empty(0, dtype=branch_dtype) if is_one else dx.to(branch_dtype)
    return dx.to(total.dtype), dbranch, dweight


def _add_norm_shape(
    x: Tensor, branch: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=dtype), scale


def _add_norm_backward_shape(
    dtotal: Tensor | None,
    dnormed: Tensor,
    total: Tensor,
    scale: Tensor,
    weight: Tensor,
    branch_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    own = 0 if total.dtype == branch_dtype else total.shape
    dbranch = total.new_empty(own, dtype=branch_dtype)
    return total.new_empty(total.shape), dbranch, weight.new_empty(weight.shape)


def _embed_cpu(table: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    return F.embedding(tokens, table).to(dtype)


def _embed_backward_cpu(dx: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    dtable = dx.new_zeros((vocabulary, dx.shape[-1]), dtype=torch.float32)
    return dtable.index_add_(0, tokens.flatten(), dx.flatten(0, -2).float())


def _embed_shape(table: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    return table.new_empty((*tokens.shape, table.shape[1]), dtype=dtype)


def _embed_backward_shape(dx: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    return dx.new_empty((vocabulary, dx.shape[-1]), dtype=torch.float32)


def _swiglu_shape(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))


def _swiglu_backward_shape(dhidden: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _rotary_shape(qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int) -> Tensor:
    batch, length, heads, width = qkv.shape
    return qkv.new_empty((batch, length, heads - kv_heads, width))


def _rotary_backward_shape(dq: Tensor, dk: Tensor, dv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    batch, length, heads, width = dq.shape
    return dq.new_empty((batch, length, heads + dk.shape[2] + dv.shape[2], width))


def _on_gpu(name: str) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        from trainer.model import triton_kernels

        return getattr(triton_kernels, name)(*inputs)

    return run


for _name, _cpu, _shape in (
    ("swiglu", _swiglu_cpu, _swiglu_shape),
    ("swiglu_backward", _swiglu_backward_cpu, _swiglu_backward_shape),
    ("add_norm", _add_norm_cpu, _add_norm_shape),
    ("add_norm_backward", _add_norm_backward_cpu, _add_norm_backward_shape),
    ("embed", _embed_cpu, _embed_shape),
    ("embed_backward", _embed_backward_cpu, _embed_backward_shape),
    ("rotary", _rotary_cpu, _rotary_shape),
    ("rotary_backward", _rotary_backward_cpu, _rotary_backward_shape),
):
    LIBRARY.impl(_name, _cpu, "CPU")
    LIBRARY.impl(_name, _on_gpu(_name), "CUDA")
    torch.library.register_fake(f"trainer::{_name}", _shape, lib=LIBRARY)
