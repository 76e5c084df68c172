"""The model: a pre-norm decoder, as in the Llama family.

Token embedding -> L x [attention, SwiGLU] -> RMSNorm -> output matrix of its own. RoPE, no biases,
no dropout, optional grouped-query attention. Parameter names follow lingua's.

Shapes: B sequences, T tokens, D width, H query heads, K key and value heads, E width of a head,
F hidden width of the FFN, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig

TRUNCATION_SIGMAS = 3.0


def rotary_table(seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, each (T, E), float32.

    RoFormer (Su et al. 2021), in the half-split layout that transformers' Llama uses.
    """
    frequencies_E2 = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles_TE2 = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequencies_E2)
    angles_TE = torch.cat((angles_TE2, angles_TE2), dim=-1)
    return angles_TE.cos(), angles_TE.sin()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Rotate each pair (i, i + E/2) of a head by its position's angle."""
    low, high = x_BHTE.chunk(2, dim=-1)
    turned = torch.cat((-high, low), dim=-1)
    return (x_BHTE * cos_TE + turned * sin_TE).to(x_BHTE.dtype)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.grouped = config.kv_heads != config.n_heads
        kv_dim = config.kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, config.dim, bias=False)
        self.wk = nn.Linear(config.dim, kv_dim, bias=False)
        self.wv = nn.Linear(config.dim, kv_dim, bias=False)
        self.wo = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """Return (B, T, D)."""
        batch, length, dim = x_BTD.shape
        split = (batch, length, -1, self.head_dim)
        q_BHTE = rotate(self.wq(x_BTD).view(split).transpose(1, 2), cos_TE, sin_TE)
        k_BKTE = rotate(self.wk(x_BTD).view(split).transpose(1, 2), cos_TE, sin_TE)
        v_BKTE = self.wv(x_BTD).view(split).transpose(1, 2)
        mixed_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BKTE, v_BKTE, is_causal=True, enable_gqa=self.grouped
        )
        return self.wo(mixed_BHTE.transpose(1, 2).reshape(batch, length, dim))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_hidden, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_hidden, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden, config.dim, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D)."""
        return self.w2(F.silu(self.w1(x_BTD)) * self.w3(x_BTD))


class Block(nn.Module):
    """One layer: attention and FFN, each added to the residual stream behind its own norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        """Return (B, T, D)."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), cos_TE, sin_TE)
        return x_BTD + self.feed_forward(self.ffn_norm(x_BTD))


class Transformer(nn.Module):
    """The decoder. Weights are those of `init_weights`, on whatever device it is built on."""

    def __init__(self, config: ModelConfig, vocab_size: int, max_seq_len: int) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.output = nn.Linear(config.dim, vocab_size, bias=False)
        cos_TE, sin_TE = rotary_table(max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("cos_TE", cos_TE, persistent=False)
        self.register_buffer("sin_TE", sin_TE, persistent=False)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V), or with targets the mean loss in nats, a scalar, float32."""
        x_BTD = self.tok_embeddings(tokens_BT)
        length = tokens_BT.shape[1]
        cos_TE, sin_TE = self.cos_TE[:length], self.sin_TE[:length]  # type: ignore[index]
        for layer in self.layers:
            x_BTD = layer(x_BTD, cos_TE, sin_TE)
        logits_BTV = self.output(self.norm(x_BTD))
        if targets_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw all weights: truncated normal at 3 sigma, sigma = d^-0.5; h^-0.5 for w2.

        The draw runs on the CPU in a fixed order, so that a seed means the same weights everywhere.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
                continue
            hidden = name.endswith("feed_forward.w2.weight")
            sigma = (self.config.ffn_hidden if hidden else self.config.dim) ** -0.5
            drawn = torch.empty(parameter.shape)
            edge = TRUNCATION_SIGMAS * sigma
            nn.init.trunc_normal_(drawn, 0.0, sigma, -edge, edge, generator=generator)
            parameter.copy_(drawn)
