"""Masked attention that skips blocks of keys: FlexAttention (Dong et al. 2024, arXiv:2412.05496).

Which blocks a mask leaves empty or full is derived from the documents at the ends of each block, so
that a mask of T x T entries is never in memory. Imported on use: the import takes a second.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from trainer.config import FLEX_BLOCK as BLOCK

_flex_attention = torch.compile(flex_attention, dynamic=False)


def attend(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, mask: BlockMask) -> Tensor:
    """Return (B, H, T, E), like scaled_dot_product_attention with the mask as a dense one."""
    grouped = q_BHTE.shape[1] != k_BKTE.shape[1]
    # Inside a compiled block it becomes part of the block.
    attention = flex_attention if torch.compiler.is_compiling() else _flex_attention
    return attention(q_BHTE, k_BKTE, v_BKTE, block_mask=mask, enable_gqa=grouped)


def block_mask(document_BT: Tensor, sliding_window: int | None) -> BlockMask:
    """Return the mask of causal attention within documents, in blocks; T is a multiple of `BLOCK`.

    `document_BT` numbers each token's document in ascending order. With a window W, a token attends
    to itself and the W - 1 tokens before it.
    """
    length = document_BT.shape[1]
    window = length if sliding_window is None else sliding_window
    first_BQ, last_BQ = document_BT[:, ::BLOCK], document_BT[:, BLOCK - 1 :: BLOCK]
    block_Q = torch.arange(length // BLOCK, device=document_BT.device)
    # Distance from the first query of a block to the first key of another.
    distance_QK = BLOCK * (block_Q[:, None] - block_Q[None, :])
    # The nearest and the farthest pair, and whether their documents can be and must be the same.
    is_near_QK = (distance_QK >= 0) & (distance_QK - (BLOCK - 1) < window)
    meets_BQK = is_near_QK & (first_BQ[:, :, None] <= last_BQ[:, None, :])
    is_within_QK = (distance_QK > 0) & (distance_QK + (BLOCK - 1) < window)
    full_BQK = is_within_QK & (last_BQ[:, :, None] == first_BQ[:, None, :])

    def keeps(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_same = document_BT[batch, query] == document_BT[batch, key]
        return (query >= key) & (query - key < window) & is_same

    return BlockMask.from_kv_blocks(
        *_ordered(meets_BQK & ~full_BQK), *_ordered(full_BQK), BLOCK_SIZE=BLOCK, mask_mod=keeps
    )


def _ordered(chosen_BQK: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many blocks of keys are chosen, (B, 1, Q), and their indices, those first."""
    count_BQ = chosen_BQK.sum(dim=-1, dtype=torch.int32)
    order_BQK = chosen_BQK.int().argsort(dim=-1, descending=True, stable=True).int()
    return count_BQ[:, None], order_BQK[:, None]
