"""Generates tokens with a trained model, one sequence at a time, with a cache of keys and values.

Shapes: see model.py.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.block import Attention, Block, add_branch
from trainer.model.masks import attention_mask
from trainer.model.model import Transformer

Choose = Callable[[Tensor], int]
"""Takes the logits (V,) of the next token and returns its id."""


class Decoder:
    """Computes the logits after a growing sequence; each token passes through the model once."""

    def __init__(self, model: Transformer) -> None:
        """`model` has unfused projections (`fused=False`)."""
        self._model = model
        config, table = model.config, model.tok_embeddings.weight
        self._cos, self._sin = model.get_buffer("cos_T1E"), model.get_buffer("sin_T1E")
        self._blocks = [cast(Block, layer) for layer in model.layers]
        shape = (1, len(self._cos), config.kv_heads, config.head_dim)
        self._past = [(table.new_empty(shape), table.new_empty(shape)) for _ in model.layers]
        self._length = 0

    @torch.no_grad()
    def logits(self, tokens_T: Tensor) -> Tensor:
        """Append tokens and return the logits (V,) of the one after them.

        All are the first ones, or there is one: a later block of tokens would need another mask.
        """
        model, start, end = self._model, self._length, self._length + len(tokens_T)
        assert start == 0 or end == start + 1
        window = model.config.sliding_window
        first = 0 if start == 0 or window is None else max(0, end - window)
        mask = attention_mask(tokens_T[None], window, None) if start == 0 else None
        x_BTD = model.embed(tokens_T[None])
        for block, past in zip(self._blocks, self._past, strict=True):
            attention = partial(self._attend, block.attention, past, first, mask)
            x_BTD = add_branch(*block.branches(x_BTD, None, attention))
        self._length = end
        x_D = model.norm(x_BTD[0, -1])
        return F.linear(x_D, model.output_weight)

    def _attend(
        self,
        attention: Attention,
        past: tuple[Tensor, Tensor],
        first: int,
        mask: Tensor | None,
        x_BTD: Tensor,
    ) -> Tensor:
        """Return what new tokens read (B, T, D) from themselves and from those from `first` on."""
        start, end = self._length, self._length + x_BTD.shape[1]
        split = (*x_BTD.shape[:2], -1, attention.head_dim)
        cos, sin = self._cos[start:end], self._sin[start:end]
        q_BTHE = attention.prepare(attention.wq(x_BTD).view(split), attention.q_norm, cos, sin)
        keys, values = past
        k_BTKE = attention.prepare(attention.wk(x_BTD).view(split), attention.k_norm, cos, sin)
        keys[:, start:end] = k_BTKE
        values[:, start:end] = attention.wv(x_BTD).view(split)
        mixed_BHTE = F.scaled_dot_product_attention(
            q_BTHE.transpose(1, 2),
            keys[:, first:end].transpose(1, 2),
            values[:, first:end].transpose(1, 2),
            mask,
            is_causal=mask is None and start == 0,
            enable_gqa=attention.kv_heads != attention.heads,
        )
        return attention.wo(mixed_BHTE.transpose(1, 2).reshape(*x_BTD.shape[:2], -1))


def generate(
    model: Transformer, prompt: list[int], count: int, choose: Choose, stops: set[int]
) -> Iterator[int]:
    """Yield up to `count` tokens after a prompt; none of `stops`, which end the text.

    The model's table of positions must hold the prompt and `count` tokens.
    """
    decoder = Decoder(model)
    device = model.tok_embeddings.weight.device
    tokens = prompt
    for _ in range(count):
        token = choose(decoder.logits(torch.tensor(tokens, device=device)))
        if token in stops:
            return
        yield token
        tokens = [token]


def make_choice(
    vocab_size: int, temperature: float = 0.0, top_k: int | None = None, seed: int = 0
) -> Choose:
    """Return how a token is chosen: the likeliest at temperature 0, else drawn from softmax.

    `vocab_size`: ids from here on are padding and never chosen. `top_k`: draw from that many of the
    likeliest only. Draws are made on the CPU, so a seed gives the same text for the same logits.
    """
    generator = torch.Generator().manual_seed(seed)

    def choose(logits_V: Tensor) -> int:
        logits_V = logits_V[:vocab_size].float().cpu()
        if temperature == 0:
            return int(logits_V.argmax())
        if top_k is not None and top_k < len(logits_V):
            least = logits_V.topk(top_k).values[-1]
            logits_V = logits_V.masked_fill(logits_V < least, -torch.inf)
        # The largest first, so that a tiny temperature does not overflow.
        scaled_V = (logits_V - logits_V.max()).double() / temperature
        return int(torch.multinomial(scaled_V.softmax(0), 1, generator=generator))

    return choose
