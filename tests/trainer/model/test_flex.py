"""Masks in blocks, for FlexAttention, against the dense ones."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from trainer.model import flex
from trainer.model.flex import BLOCK, block_mask
from trainer.model.masks import DocumentBorder, attend, attention_mask, document_numbers

BORDER = 1


def tokens_with_borders(length: int, rate: float) -> Tensor:
    draw = torch.rand(3, length, generator=torch.Generator().manual_seed(0))
    return (draw < rate).long() * BORDER


def in_blocks(counts: Tensor, indices: Tensor) -> Tensor:
    """Return which blocks are listed, (B, Q, K)."""
    listed = torch.arange(indices.shape[-1]) < counts[..., None]
    return torch.zeros(indices.shape, dtype=torch.bool).scatter(3, indices.long(), listed)[:, 0]


@pytest.mark.parametrize("window", [None, 1, 50, BLOCK, BLOCK + 1, 2 * BLOCK, 700])
@pytest.mark.parametrize("rate", [0.0, 0.002, 0.02, 0.3])
def test_blocks_are_those_of_the_dense_mask(rate: float, window: int | None) -> None:
    """Full ones where the dense mask is all true, partial ones where some of it is, no others."""
    length = 6 * BLOCK
    tokens = tokens_with_borders(length, rate)
    for opens in (True, False):
        border = DocumentBorder(BORDER, opens)
        dense = attention_mask(tokens, window, border)
        assert dense is not None
        blocks = dense.view(3, 6, BLOCK, 6, BLOCK).transpose(2, 3)
        mask = block_mask(document_numbers(tokens, border), window)
        full = in_blocks(mask.full_kv_num_blocks, mask.full_kv_indices)
        partial = in_blocks(mask.kv_num_blocks, mask.kv_indices)
        assert torch.equal(full, blocks.all(-1).all(-1))
        assert torch.equal(partial, blocks.any(-1).any(-1) & ~full)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_grouped_attention_is_that_of_the_dense_mask(
    monkeypatch: pytest.MonkeyPatch, window: int | None
) -> None:
    monkeypatch.setattr(flex, "_flex_attention", flex_attention)  # not compiled: that takes long
    length, border = 2 * BLOCK, DocumentBorder(BORDER, opens=True)
    tokens = tokens_with_borders(length, 0.01)
    draw = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, heads, length, 16, generator=draw) for heads in (4, 2, 2))
    dense = attention_mask(tokens, window, border)
    mask = block_mask(document_numbers(tokens, border), window)
    expected = F.scaled_dot_product_attention(q, k, v, dense, enable_gqa=True)
    torch.testing.assert_close(attend(q, k, v, mask), expected)
