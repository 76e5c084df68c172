"""One layer of the model: attention and FFN, with their norms.

Shapes: see model.py.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from trainer.config import ActivationCheckpointing, ModelConfig
from trainer.model import pointwise
from trainer.model.linear import ONEDNN_LINEAR, FusedLinear, Linear, join_parts, matmul_dtype
from trainer.model.masks import Mask, attend
from trainer.model.rotary import rotate


class Attention(nn.Module):
    """Causal self-attention, by default with rotary positions."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.heads, self.kv_heads = config.n_heads, config.kv_heads
        rows = {"wq": config.q_dim, "wk": config.kv_dim, "wv": config.kv_dim}
        self.wqkv = FusedLinear(config.dim, rows) if fused else None
        if not fused:
            self.wq, self.wk, self.wv = (Linear(config.dim, count) for count in rows.values())
        self.register_load_state_dict_pre_hook(join_parts)
        self.wo = Linear(config.q_dim, config.dim)
        width, eps = config.head_dim, config.norm_eps
        self.q_norm = nn.RMSNorm(width, eps=eps) if config.qk_norm else None
        self.k_norm = nn.RMSNorm(width, eps=eps) if config.qk_norm else None
        self.has_positions = config.pos_embed == "rope"
        self.fits_kernel = config.rotates_projections
        self.one_kernel = False
        """Rotate with `pointwise.rotary`; needs fused matrices and `fits_kernel`."""

    def forward(
        self, x_BTD: Tensor, cos_T1E: Tensor, sin_T1E: Tensor, mask: Mask | None = None
    ) -> Tensor:
        """Return (B, T, D); under tensor parallelism from this process's share of the heads."""
        batch, length, _ = x_BTD.shape
        split = (batch, length, -1, self.head_dim)
        if self.wqkv is not None:
            qkv_BTXE = self.wqkv(x_BTD).view(split)
            if self.one_kernel:
                q_BTHE, k_BTKE, v_BTKE = pointwise.rotary(qkv_BTXE, cos_T1E, sin_T1E, self.kv_heads)
            elif self.q_norm is None:
                qk_BTXE, v_BTKE = qkv_BTXE.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
                qk_BTXE = self.prepare(qk_BTXE, None, cos_T1E, sin_T1E)
                q_BTHE, k_BTKE = qk_BTXE.split((self.heads, self.kv_heads), dim=2)
            else:
                counts = (self.heads, self.kv_heads, self.kv_heads)
                q_BTHE, k_BTKE, v_BTKE = qkv_BTXE.split(counts, dim=2)
                q_BTHE = self.prepare(q_BTHE, self.q_norm, cos_T1E, sin_T1E)
                k_BTKE = self.prepare(k_BTKE, self.k_norm, cos_T1E, sin_T1E)
        else:
            q_BTHE = self.prepare(self.wq(x_BTD).view(split), self.q_norm, cos_T1E, sin_T1E)
            k_BTKE = self.prepare(self.wk(x_BTD).view(split), self.k_norm, cos_T1E, sin_T1E)
            v_BTKE = self.wv(x_BTD).view(split)
        mixed_BHTE = attend(
            q_BTHE.transpose(1, 2), k_BTKE.transpose(1, 2), v_BTKE.transpose(1, 2), mask
        )
        return self.wo(mixed_BHTE.transpose(1, 2).reshape(batch, length, -1))

    def prepare(
        self, x_BTHE: Tensor, norm: nn.RMSNorm | None, cos_T1E: Tensor, sin_T1E: Tensor
    ) -> Tensor:
        """Return queries or keys normalised by head, if there is a norm, and rotated."""
        if norm is not None:
            x_BTHE = normalise(norm, x_BTHE).to(x_BTHE.dtype)
        return rotate(x_BTHE, cos_T1E, sin_T1E) if self.has_positions else x_BTHE


def squared_relu(x: Tensor) -> Tensor:
    """Return max(x, 0)^2 (So et al. 2021, "Primer")."""
    return F.relu(x).square()


UNGATED: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu2": squared_relu}
"""`ModelConfig.activation` without a gate -> its function."""


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020), w2(silu(w1 x) * w3 x), or w2(f(w1 x)) with f of `UNGATED`."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        hidden = config.ffn_hidden
        self.ungated = UNGATED.get(config.activation)
        fused = fused and config.is_gated
        self.w13 = FusedLinear(config.dim, {"w1": hidden, "w3": hidden}) if fused else None
        if not fused:
            self.w1 = Linear(config.dim, hidden)
            if config.is_gated:
                self.w3 = Linear(config.dim, hidden)
        self.register_load_state_dict_pre_hook(join_parts)
        self.w2 = Linear(hidden, config.dim)
        self.fits_kernel = config.is_gated
        self.one_kernel = False
        """Compute with `pointwise.swiglu`; needs fused matrices and `fits_kernel`."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        if self.ungated is not None:
            return self.w2(self.ungated(self.w1(x_BTD)))
        if self.w13 is not None:
            gate_up_BTG = self.w13(x_BTD)
            if self.one_kernel:
                return self.w2(pointwise.swiglu(gate_up_BTG))
            gate_BTF, up_BTF = gate_up_BTG.chunk(2, dim=-1)
        else:
            gate_BTF, up_BTF = self.w1(x_BTD), self.w3(x_BTD)
        return self.w2(F.silu(gate_BTF) * up_BTF)


Norm: TypeAlias = nn.RMSNorm | nn.LayerNorm


def build_norm(config: ModelConfig) -> Norm:
    """Return a norm of the residual stream."""
    if config.norm_type == "layernorm":
        return nn.LayerNorm(config.dim, eps=config.norm_eps, bias=False)
    return nn.RMSNorm(config.dim, eps=config.norm_eps)


class Block(nn.Module):
    """One layer: attention and FFN, each a pre-norm residual branch.

    The next block adds the FFN's output to the residual stream: compiled, one kernel then sums and
    normalises.
    """

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, fused)
        self.ffn_norm = build_norm(config)
        self.feed_forward = FeedForward(config, fused)
        self.ac_mode: ActivationCheckpointing = "none"
        self.fits_kernel = config.norm_type == "rmsnorm"
        self.one_kernel = False
        """Sum and normalise with `pointwise.add_norm`; needs `fits_kernel`."""

    def forward(
        self,
        x_BTD: Tensor,
        branch_BTD: Tensor | None,
        cos_T1E: Tensor,
        sin_T1E: Tensor,
        mask: Mask | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the residual stream without the FFN's output, and this output, both (B, T, D).

        `branch_BTD`: the output of the block before, not added yet; None if there is none.
        """
        if self.ac_mode == "none" or not self.training:
            return self._compute(x_BTD, branch_BTD, cos_T1E, sin_T1E, mask)
        # A block uses no random numbers, and CUDA graphs must not read the generator's state.
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if self.ac_mode == "selective":
            options["context_fn"] = _keep_matmuls
        else:  # so that one tensor is kept, not two
            x_BTD, branch_BTD = add_branch(x_BTD, branch_BTD), None
        return checkpoint(self._compute, x_BTD, branch_BTD, cos_T1E, sin_T1E, mask, **options)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the block in place; under full activation checkpointing, only inside of it.

        torch 2.13 fails to compile full activation checkpointing of a tensor-parallel block.
        """
        if self.ac_mode == "full":
            self._compute = torch.compile(self._compute, *args, **kwargs)  # type: ignore[method-assign]
        else:
            super().compile(*args, **kwargs)

    def _compute(
        self,
        x_BTD: Tensor,
        branch_BTD: Tensor | None,
        cos_T1E: Tensor,
        sin_T1E: Tensor,
        mask: Mask | None,
    ) -> tuple[Tensor, Tensor]:
        return self.branches(x_BTD, branch_BTD, lambda x: self.attention(x, cos_T1E, sin_T1E, mask))

    def branches(
        self, x_BTD: Tensor, branch_BTD: Tensor | None, attention: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return what `forward` does; `attention` computes the first branch."""
        x_BTD, normed_BTD = self._sum_and_normalise(x_BTD, branch_BTD, self.attention_norm)
        x_BTD, normed_BTD = self._sum_and_normalise(x_BTD, attention(normed_BTD), self.ffn_norm)
        return x_BTD, self.feed_forward(normed_BTD)

    def _sum_and_normalise(
        self, x_BTD: Tensor, branch_BTD: Tensor | None, norm: Norm
    ) -> tuple[Tensor, Tensor]:
        """Return the residual stream with a branch, and the norm of that."""
        if self.one_kernel and branch_BTD is not None:
            return sum_and_normalise(norm, x_BTD, branch_BTD)
        x_BTD = add_branch(x_BTD, branch_BTD)
        return x_BTD, normalise(norm, x_BTD)


def add_branch(x_BTD: Tensor, branch_BTD: Tensor | None) -> Tensor:
    """Return the residual stream with the output of a branch, if there is one."""
    return x_BTD if branch_BTD is None else x_BTD + branch_BTD


def sum_and_normalise(norm: Norm, x_BTD: Tensor, branch_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum, and its RMSNorm in the dtype of matmuls, with `pointwise.add_norm`."""
    assert isinstance(norm, nn.RMSNorm) and norm.eps is not None
    return pointwise.add_norm(x_BTD, branch_BTD, norm.weight, norm.eps, matmul_dtype(x_BTD))


def normalise(norm: Norm, x: Tensor) -> Tensor:
    """Return the normalised last dimension, in the dtype of the norm's weight."""
    return norm(x.to(norm.weight.dtype))


def _keep_matmuls() -> Any:
    """Keep the results that cost most for their size: those of matmuls and attention."""
    kept = [
        torch.ops.aten.mm.default,
        ONEDNN_LINEAR,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    ]
    return create_selective_checkpoint_contexts(kept)
