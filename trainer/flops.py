"""Arithmetic of the model: parameters, FLOPs per token, utilisation. Imports no torch."""

from dataclasses import dataclass

from trainer.config import ModelConfig

LARGE_MATMUL = 2**22
"""Multiply-adds of a matmul that takes a CPU longer than its call takes Python."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model, counted by hand."""

    embedding: int
    """Input embedding, V*d. A look-up: it costs no matrix product."""
    blocks: int
    """All blocks: L * (attention + SwiGLU + two norms)."""
    norm: int
    """Final norm, d."""
    output: int
    """Output matrix, V*d."""
    tied: bool = False
    """The output matrix is the input embedding, and no parameters of its own."""

    @property
    def total(self) -> int:
        """All parameters."""
        return self.embedding + self.blocks + self.norm + (0 if self.tied else self.output)

    @property
    def without_embedding(self) -> int:
        """Parameters that take part in the FLOPs: all but the look-up of the input embedding."""
        return self.blocks + self.norm + self.output


def count_parameters(model: ModelConfig, vocab_size: int) -> ParameterCount:
    """Count the parameters of a shape.

    Without grouped-query attention: L*(4d^2 + 3*d*h + 2d) + 2*V*d + d, h the FFN's hidden width.
    """
    d, q_dim, kv_dim = model.dim, model.q_dim, model.kv_heads * model.head_dim
    attention = 2 * d * q_dim + 2 * d * kv_dim
    block = attention + 3 * d * model.ffn_hidden + 2 * d
    return ParameterCount(
        embedding=vocab_size * d,
        blocks=model.n_layers * block,
        norm=d,
        output=vocab_size * d,
        tied=model.weight_tying,
    )


def flops_per_token(
    model: ModelConfig, vocab_size: int, seq_len: int, causal: bool = False
) -> float:
    """Floating-point operations of one forward and backward pass, for each token.

    6N + 12*L*S*q with N the parameters without the input embedding and q the width of all query
    heads, d in most shapes (PaLM, appendix B; nanoGPT and torchtitan count so). `causal` halves the
    attention term: the work that a causal mask needs.
    """
    # A product with a weight costs 2 FLOPs forward; backward costs two forwards (the gradients of
    # inputs and of weights), hence 6. Attention is two S x S products of width d for each layer.
    attention = (6 if causal else 12) * model.n_layers * seq_len * model.q_dim
    return 6.0 * count_parameters(model, vocab_size).without_embedding + attention


def is_large_matmul(rows: int, inner: int, columns: int) -> bool:
    """Say whether a matmul on a CPU is so large that its work counts, not its call."""
    return rows * inner * columns >= LARGE_MATMUL


def utilisation(
    tokens_per_s_per_gpu: float, flops: float, peak_tflops: float | None
) -> float | None:
    """Model FLOPs utilisation (MFU) as a fraction; None where the GPU's peak is not known."""
    if peak_tflops is None:
        return None
    return tokens_per_s_per_gpu * flops / (peak_tflops * 1e12)
