"""Arithmetic of the model: parameters, FLOPs per token, utilisation. Imports no torch."""

import math
from dataclasses import dataclass

from trainer.config import ModelConfig

LARGE_MATMUL = 2**22
"""Multiply-adds of a matmul that takes a CPU longer than its call takes Python."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model, by formula."""

    embedding: int
    """Input embedding, V*d. A look-up, not a matmul."""
    blocks: int
    """All blocks: L * (attention + FFN + norms)."""
    norm: int
    """Final norm, d."""
    output: int
    """Output matrix, V*d."""
    tied: bool
    """The output matrix is the input embedding and adds no parameters."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.blocks + self.norm + (0 if self.tied else self.output)

    @property
    def without_embedding(self) -> int:
        """Parameters that count in the FLOPs: all but the input embedding's look-up."""
        return self.blocks + self.norm + self.output


def count_parameters(model: ModelConfig, vocab_size: int) -> ParameterCount:
    """Count the parameters of a shape.

    Without grouped-query attention: L*(4d^2 + 3*d*h + 2d) + 2*V*d + d, h the FFN's hidden width.
    Without a gate 2*d*h in place of 3*d*h; with qk_norm 2E more for each layer, E = head_dim.
    """
    d = model.dim
    block = sum(math.prod(shape) for shape in block_shapes(model).values())
    return ParameterCount(
        embedding=vocab_size * d,
        blocks=model.n_layers * block,
        norm=d,
        output=vocab_size * d,
        tied=model.weight_tying,
    )


def block_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a block's weights by name: matrices (rows, columns), norms (width,)."""
    d, h, q_dim, kv_dim = model.dim, model.ffn_hidden, model.q_dim, model.kv_dim
    shapes: dict[str, tuple[int, ...]] = {
        "attention.wq": (q_dim, d),
        "attention.wk": (kv_dim, d),
        "attention.wv": (kv_dim, d),
        "attention.wo": (d, q_dim),
        "feed_forward.w1": (h, d),
        "feed_forward.w2": (d, h),
        "attention_norm": (d,),
        "ffn_norm": (d,),
    }
    if model.is_gated:
        shapes["feed_forward.w3"] = (h, d)
    if model.qk_norm:
        shapes |= dict.fromkeys(("attention.q_norm", "attention.k_norm"), (model.head_dim,))
    return shapes


def block_matrices(model: ModelConfig) -> list[tuple[int, ...]]:
    """Return the shape (rows, columns) of each matrix of a block."""
    return [shape for shape in block_shapes(model).values() if len(shape) == 2]


def block_norms(model: ModelConfig) -> int:
    """Return the parameters of a block's norms."""
    return sum(shape[0] for shape in block_shapes(model).values() if len(shape) == 1)


def mean_context(seq_len: int, sliding_window: int | None = None) -> float:
    """Return the mean number of keys that a token of a sequence attends to under the causal mask.

    S/2 for S = `seq_len`; with a sliding window W < S, W - W^2/(2S). This is the area of the mask
    divided by S, as the usual formulas count it; its entries are up to half a key a token more. It
    does not depend on the data: for a run with `data.document_mask` it is an upper bound, and
    trainer/tokens/context.py counts the keys that are left.
    """
    window = min(sliding_window or seq_len, seq_len)
    return window - window**2 / (2 * seq_len)


def flops_per_token(
    model: ModelConfig,
    vocab_size: int,
    seq_len: int,
    *,
    context: float | None = None,
    causal: bool = False,
) -> float:
    """Return the FLOPs of one forward and backward pass, for each token.

    6N + 24*L*q*c: N parameters without the input embedding, L layers, q = n_heads * head_dim (the
    width of all query heads), c = `context`, the mean number of keys that a token attends to under
    the causal mask. If `context` is None, c is `mean_context` of `seq_len`, which is not used
    otherwise. Without sliding window and document mask c is S/2, and the formula is the
    6N + 12*L*S*q of PaLM (appendix B), nanoGPT and torchtitan: as if each token attended to as many
    keys after it as before it. `causal` leaves those out: 6N + 12*L*q*c, the FLOPs that the causal
    mask needs.

    Grouped-query attention makes N smaller, not the attention term: each query head still attends
    to c keys. A tied output matrix is a matmul like any other, and counts in N.
    """
    if context is None:
        context = mean_context(seq_len, model.sliding_window)
    # A matmul with a weight costs 2 FLOPs forward; backward costs two forwards (the gradients of
    # inputs and of weights), hence 6. Attention is two matmuls of activations, scores and weighted
    # values, each 2 FLOPs forward for a key and unit of q: 4 forward, 12 with the backward pass.
    keys = context if causal else 2 * context
    attention = 12 * model.n_layers * model.q_dim * keys
    return 6.0 * count_parameters(model, vocab_size).without_embedding + attention


def is_large_matmul(rows: int, inner: int, columns: int) -> bool:
    """Say whether a matmul on a CPU takes longer than the call in Python."""
    return rows * inner * columns >= LARGE_MATMUL


def utilisation(
    tokens_per_s_per_gpu: float, flops: float, peak_tflops: float | None
) -> float | None:
    """Model FLOPs utilisation (MFU) as a fraction; None if the GPU's peak is unknown."""
    if peak_tflops is None:
        return None
    return tokens_per_s_per_gpu * flops / (peak_tflops * 1e12)
