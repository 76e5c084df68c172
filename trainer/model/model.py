"""The model: a pre-norm decoder, as in the Llama family.

Token embedding -> L x [attention, FFN] -> norm -> output matrix, optionally tied to the embedding.
No biases, no dropout, optional grouped-query attention. By default with RMSNorm, SwiGLU and RoPE;
`ModelConfig` has the alternatives. Names in a state dict are lingua's; matmuls that share an input
can be fused, see `FusedLinear`.

Shapes: B sequences, T tokens, D width, H query heads, K key and value heads, E width of a head,
F hidden width of the FFN, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from trainer.config import ActivationCheckpointing, ModelConfig
from trainer.model import pointwise
from trainer.model.linear import ONEDNN_LINEAR, FusedLinear, Linear, join_parts, parts_of
from trainer.model.loss import Gradient, chunk_gradient, mean_loss, pad_rows
from trainer.model.masks import DocumentBorder, Mask, attend, attention_mask, document_numbers
from trainer.model.random_weights import draw_truncated, sigma_of
from trainer.model.rotary import rotary_table, rotate


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
            x_BTHE = _norm(norm, x_BTHE).to(x_BTHE.dtype)
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
    """One layer: attention and FFN, each a pre-norm residual branch."""

    def __init__(self, config: ModelConfig, fused: bool) -> None:
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = Attention(config, fused)
        self.ffn_norm = build_norm(config)
        self.feed_forward = FeedForward(config, fused)
        self.ac_mode: ActivationCheckpointing = "none"

    def forward(
        self, x_BTD: Tensor, cos_T1E: Tensor, sin_T1E: Tensor, mask: Mask | None = None
    ) -> Tensor:
        """Return (B, T, D)."""
        if self.ac_mode == "none" or not self.training:
            return self._compute(x_BTD, cos_T1E, sin_T1E, mask)
        # A block uses no random numbers, and CUDA graphs must not read the generator's state.
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if self.ac_mode == "selective":
            options["context_fn"] = _keep_matmuls
        return checkpoint(self._compute, x_BTD, cos_T1E, sin_T1E, mask, **options)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the block in place; under full activation checkpointing, only inside of it.

        torch 2.13 fails to compile full activation checkpointing of a tensor-parallel block.
        """
        if self.ac_mode == "full":
            self._compute = torch.compile(self._compute, *args, **kwargs)  # type: ignore[method-assign]
        else:
            super().compile(*args, **kwargs)

    def _compute(
        self, x_BTD: Tensor, cos_T1E: Tensor, sin_T1E: Tensor, mask: Mask | None
    ) -> Tensor:
        return self.add_branches(x_BTD, lambda x: self.attention(x, cos_T1E, sin_T1E, mask))

    def add_branches(self, x_BTD: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
        """Return (B, T, D): the input plus both branches; `attention` computes the first."""
        x_BTD = x_BTD + attention(_norm(self.attention_norm, x_BTD))
        return x_BTD + self.feed_forward(_norm(self.ffn_norm, x_BTD))


def _norm(norm: Norm, x: Tensor) -> Tensor:
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


class Transformer(nn.Module):
    """The decoder; `init_weights` draws its weights."""

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        max_seq_len: int,
        border: DocumentBorder | None = None,
        *,
        fused: bool = True,
        loss_chunk: int = 0,
        residual_dtype: torch.dtype | None = None,
        output_multiple: int = 1,
    ) -> None:
        """With a `border`, tokens attend only within their own document.

        `fused`: fuse matmuls that share an input. `loss_chunk`: tokens per chunk of `mean_loss`, or
        0 for all logits at once. `residual_dtype`: dtype of the residual stream; None: that of the
        embedding. `output_multiple`: for the matmuls of the loss, the output matrix is padded with
        rows of zeros to a multiple of this; parameters and logits have the vocabulary's size.
        """
        super().__init__()
        self.config = config
        self.border = border
        self.loss_chunk = loss_chunk
        self.residual_dtype = residual_dtype
        self.output_multiple = output_multiple
        self._chunk_gradient: Gradient = chunk_gradient
        self.masks_blocks = False
        """In training, mask with FlexAttention."""
        table_VD = torch.empty(vocab_size, config.dim)  # drawn by init_weights
        self.tok_embeddings = nn.Embedding.from_pretrained(table_VD, freeze=False)
        self.layers = nn.ModuleList(Block(config, fused) for _ in range(config.n_layers))
        self.norm = build_norm(config)
        self.output = None if config.weight_tying else Linear(config.dim, vocab_size)
        # Without positions, the tables have no width.
        width = config.head_dim if config.pos_embed == "rope" else 0
        cos_T1E, sin_T1E = rotary_table(max_seq_len, width, config.rope_theta, config.rope_scaling)
        self.register_buffer("cos_T1E", cos_T1E, persistent=False)
        self.register_buffer("sin_T1E", sin_T1E, persistent=False)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) or, with targets, the mean loss in nats, a float32 scalar."""
        x_BTD = self.tok_embeddings(tokens_BT)
        if self.residual_dtype is not None:
            x_BTD = x_BTD.to(self.residual_dtype)
        length = tokens_BT.shape[1]
        cos_T1E, sin_T1E = self.cos_T1E[:length], self.sin_T1E[:length]  # type: ignore[index]
        mask = self._mask(tokens_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_T1E, sin_T1E, mask)
        if targets_BT is None:
            return self._logits(_norm(self.norm, x_BTD))
        return self._loss(x_BTD, targets_BT)

    def _mask(self, tokens_BT: Tensor) -> Mask | None:
        # Evaluation runs eagerly, and eager FlexAttention computes all scores.
        if not self.masks_blocks or not self.training:
            return attention_mask(tokens_BT, self.config.sliding_window, self.border)
        from trainer.model import flex

        return flex.block_mask(document_numbers(tokens_BT, self.border), self.config.sliding_window)

    def _logits(self, x_BTD: Tensor) -> Tensor:
        if self.output is None:
            return F.linear(x_BTD, self.tok_embeddings.weight)
        return self.output(x_BTD)

    def _loss(self, x_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean loss, from the output of the last block before the final norm."""
        x_BTD = _norm(self.norm, x_BTD)
        weight_VD = self.output_weight
        if self.loss_chunk:
            multiple, gradient = self.output_multiple, self._chunk_gradient
            return mean_loss(x_BTD, weight_VD, targets_BT, self.loss_chunk, multiple, gradient)
        if self.output_multiple == 1:
            logits_BTV = self._logits(x_BTD)
        else:
            padded = F.linear(x_BTD, pad_rows(weight_VD, self.output_multiple))
            logits_BTV = padded[..., : len(weight_VD)]
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def compile_loss(self, **kwargs: Any) -> None:
        """Compile final norm, output matmul and loss; of a chunked loss, the gradient alone."""
        if self.loss_chunk:  # its matmuls run chunk by chunk
            self._chunk_gradient = torch.compile(chunk_gradient, **kwargs)
        else:
            self._loss = torch.compile(self._loss, **kwargs)  # type: ignore[method-assign]

    @property
    def output_weight(self) -> Tensor:
        """The output matrix (V, D), which may be the input embedding."""
        return self.tok_embeddings.weight if self.output is None else self.output.weight

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights from a normal truncated at 3 sigma, see `sigma_of`; norm weights are 1.

        They are drawn on the CPU in a fixed order, so a seed gives the same weights everywhere.
        """
        generator = torch.Generator().manual_seed(seed)
        parameters = dict(self.named_parameters())
        for name, (parameter, rows) in parts_of(self).items():
            weight = parameters[parameter][rows]
            if weight.ndim == 1:
                weight.fill_(1.0)
                continue
            weight.copy_(draw_truncated(weight.shape, sigma_of(self.config, name), generator))
