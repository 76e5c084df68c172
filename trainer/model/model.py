"""The model: a pre-norm decoder, as in the Llama family.

Token embedding -> L x [attention, FFN] -> norm -> output matrix, optionally tied to the embedding.
No biases, no dropout, optional grouped-query attention. By default with RMSNorm, SwiGLU and RoPE;
`ModelConfig` has the alternatives. Names in a state dict are lingua's; matmuls that share an input
can be fused, see `FusedLinear`.

Shapes: B sequences, T tokens, D width, H query heads, K key and value heads, E width of a head,
F hidden width of the FFN, V vocabulary.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.model import pointwise
from trainer.model.block import Block, build_norm, normalise, sum_and_normalise
from trainer.model.linear import Linear, matmul_dtype, parts_of, rows_of
from trainer.model.loss import Gradient, chunk_gradient, mean_loss, pad_rows
from trainer.model.masks import DocumentBorder, Mask, attention_mask, document_numbers
from trainer.model.random_weights import draw_truncated, sigma_of
from trainer.model.rotary import rotary_table


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
        self.chunk_gradient: Gradient = chunk_gradient
        self.masks_blocks = False
        """In training, mask with FlexAttention."""
        self.fits_kernel = config.norm_type == "rmsnorm"
        self.one_kernel = False
        """Compute embedding, last norm and loss with the kernels of pointwise.py."""
        self.calls_alike = False
        """Let the first block add zeros, so that one compilation fits all blocks."""
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
        x_BTD = self.embed(tokens_BT)
        length = tokens_BT.shape[1]
        cos_T1E, sin_T1E = self.cos_T1E[:length], self.sin_T1E[:length]  # type: ignore[index]
        mask = self._mask(tokens_BT)
        branch_BTD = self._zeros(x_BTD) if self.calls_alike else None
        for layer in self.layers:
            x_BTD, branch_BTD = layer(x_BTD, branch_BTD, cos_T1E, sin_T1E, mask)
        assert branch_BTD is not None
        if targets_BT is None:
            return self._logits(normalise(self.norm, x_BTD + branch_BTD))
        return self.loss(x_BTD, branch_BTD, targets_BT)

    def embed(self, tokens_BT: Tensor) -> Tensor:
        """Return the residual stream (B, T, D) that enters the first block."""
        table_VD = self.tok_embeddings.weight
        if self.one_kernel:
            return pointwise.embed(table_VD, tokens_BT, self.residual_dtype or table_VD.dtype)
        x_BTD = self.tok_embeddings(tokens_BT)
        return x_BTD if self.residual_dtype is None else x_BTD.to(self.residual_dtype)

    def _zeros(self, x_BTD: Tensor) -> Tensor:
        """Return zeros that look like the output of a block's FFN."""
        return torch.zeros_like(x_BTD, dtype=matmul_dtype(x_BTD), requires_grad=x_BTD.requires_grad)

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

    def loss(self, x_BTD: Tensor, branch_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean loss, from what the last block returns."""
        weight_VD, chunk, gradient = self.output_weight, self.loss_chunk, self.chunk_gradient
        if self.one_kernel:
            _, x_BTD = sum_and_normalise(self.norm, x_BTD, branch_BTD)
            chunk, gradient = chunk or targets_BT.numel(), pointwise.chunk_gradient
        else:
            x_BTD = normalise(self.norm, x_BTD + branch_BTD)
        if chunk:
            multiple = self.output_multiple
            return mean_loss(x_BTD, weight_VD, targets_BT, chunk, multiple, gradient)
        if self.output_multiple == 1:
            logits_BTV = self._logits(x_BTD)
        else:
            padded = F.linear(x_BTD, pad_rows(weight_VD, self.output_multiple))
            logits_BTV = padded[..., : len(weight_VD)]
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    def compile_loss(self, **kwargs: Any) -> None:
        """Compile final norm, output matmul and loss; of a chunked loss, the gradient alone."""
        if self.loss_chunk:  # its matmuls run chunk by chunk
            self.chunk_gradient = torch.compile(chunk_gradient, **kwargs)
        else:
            self.loss = torch.compile(self.loss, **kwargs)  # type: ignore[method-assign]

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
            weight = rows_of(parameters[parameter], rows)
            if weight.ndim == 1:
                weight.fill_(1.0)
                continue
            weight.copy_(draw_truncated(weight.shape, sigma_of(self.config, name), generator))
