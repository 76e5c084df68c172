"""The model's matmuls, with the fastest library that torch ships for this CPU.

`Linear` is torch's, without a bias. With `fast_cpu`, its large fp32 matmuls on a CPU use oneDNN;
torch itself uses MKL, which leaves AVX-512 unused on processors other than Intel's. `FusedLinear`
fuses matmuls that share an input; in a state dict its matrices keep their own names.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.flops import is_large_matmul

LIBRARY = torch.library.Library("trainer", "FRAGMENT")
LIBRARY.define("onednn_linear(Tensor x, Tensor weight) -> Tensor")


def _onednn_linear(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _onednn_linear_shape(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


# A custom operator: torch.compile supports mkldnn's own operator only with constant weights.
LIBRARY.impl("onednn_linear", _onednn_linear, "CPU")
torch.library.register_fake("trainer::onednn_linear", _onednn_linear_shape, lib=LIBRARY)

ONEDNN_LINEAR = torch.ops.trainer.onednn_linear.default


class _OneDnnLinear(torch.autograd.Function):
    """x W^T for x (..., in) and W (out, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return ONEDNN_LINEAR(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        (dy,) = gradients
        dx = ONEDNN_LINEAR(dy, weight.t()) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return dx, None
        dy_NO, x_NI = dy.flatten(0, -2), x.flatten(0, -2)
        # oneDNN needs its first operand in row-major order; transpose and copy the smaller one.
        if dy_NO.shape[1] <= x_NI.shape[1]:
            return dx, ONEDNN_LINEAR(dy_NO.t(), x_NI.t())
        return dx, ONEDNN_LINEAR(x_NI.t(), dy_NO.t()).t()


class _Copied(torch.autograd.Function):
    """The copy of a weight; gradients go to the weight, in its own dtype."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, copy: Tensor) -> Tensor:
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None


class Linear(nn.Linear):
    """A matrix (out, in) without a bias."""

    fast_cpu = False
    """Use oneDNN for large fp32 matmuls on a CPU."""
    copy: Tensor | None = None
    """The weight in the dtype of the matmuls, if it is kept; see weight_copies.py."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Skip torch's initialisation: `Transformer.init_weights` draws the weights."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in)."""
        if self.copy is None:
            return matmul(x, self.weight, self.fast_cpu)
        takes_gradient = self.copy.requires_grad
        return F.linear(x, self.copy if takes_gradient else _Copied.apply(self.weight, self.copy))


def matmul(x: Tensor, weight: Tensor, fast_cpu: bool) -> Tensor:
    """Return x W^T, (..., out), of x (..., in) and W (out, in)."""
    if fast_cpu and is_large_matmul(x.numel(), 1, weight.shape[0]):
        return _OneDnnLinear.apply(x, weight)
    return F.linear(x, weight)


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype in which a matmul of `x` runs here: that of autocast, or of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class FusedLinear(Linear):
    """Several matrices with the same input, stacked: one matmul instead of several."""

    def __init__(self, in_features: int, parts: Mapping[str, int]) -> None:
        """`parts`: name of a matrix -> number of its rows, in stacking order."""
        super().__init__(in_features, sum(parts.values()))
        ends = itertools.accumulate(parts.values())
        self.rows = {
            name: slice(end - count, end)
            for (name, count), end in zip(parts.items(), ends, strict=True)
        }
        """Name of a matrix -> its rows."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        weight = self.weight if keep_vars else self.weight.detach()
        for name, rows in self.rows.items():
            destination[f"{part_prefix(prefix)}{name}.weight"] = weight[rows]


def join_parts(owner: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Stack the separate matrices of a state dict for a module's fused ones.

    A hook for `register_load_state_dict_pre_hook` of the module that owns them.
    """
    for name, module in owner.named_children():
        if isinstance(module, FusedLinear):
            names = [f"{prefix}{part}.weight" for part in module.rows]
            if all(part in state_dict for part in names):
                parts = [state_dict.pop(part) for part in names]
                state_dict[f"{prefix}{name}.weight"] = torch.cat(parts)


def part_prefix(prefix: str) -> str:
    """Return the prefix of the names of a fused matrix's parts: `a.b.` for `a.b.fused.`."""
    owner, dot, _ = prefix.removesuffix(".").rpartition(".")
    return owner + dot


def rows_of(tensor: Tensor, rows: slice) -> Tensor:
    """Return some rows; a sharded tensor, which is always whole, as it is."""
    return tensor if rows == slice(None) else tensor[rows]


def parts_of(model: nn.Module) -> dict[str, tuple[str, slice]]:
    """Return name in the state dict -> (name of the parameter, rows of it)."""
    modules = dict(model.named_modules())
    parts: dict[str, tuple[str, slice]] = {}
    for name, _ in model.named_parameters():
        owner = name.rpartition(".")[0]
        module = modules.get(owner)
        if isinstance(module, FusedLinear):
            for part, rows in module.rows.items():
                parts[f"{part_prefix(owner + '.')}{part}.weight"] = (name, rows)
        else:
            parts[name] = (name, slice(None))
    return parts
