"""Which keys a query attends to, and attention with such a mask.

Shapes: see model.py.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:  # the import takes a second
    from torch.nn.attention.flex_attention import BlockMask

Mask: TypeAlias = Union[Tensor, "BlockMask"]
"""Dense, or in blocks for FlexAttention."""


@dataclass(frozen=True)
class DocumentBorder:
    """The token that marks the boundary between packed documents."""

    token: int
    """Id of BOS or EOS."""
    opens: bool
    """Whether it is a document's first token (BOS) or its last (EOS)."""


def attention_mask(
    tokens_BT: Tensor, sliding_window: int | None, border: DocumentBorder | None
) -> Tensor | None:
    """Return the keys (columns) that each query (row) attends to, bool, broadcastable to (B,1,T,T).

    None means plain causal attention, for which the kernels need no mask.
    """
    if sliding_window is None and border is None:
        return None
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    distance_TT = position_T[:, None] - position_T[None, :]
    mask_TT = distance_TT >= 0
    if sliding_window is not None:
        mask_TT = mask_TT & (distance_TT < sliding_window)
    if border is None:
        return mask_TT[None, None]
    document_BT = document_numbers(tokens_BT, border)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return (mask_TT & same_BTT)[:, None]


def document_numbers(tokens_BT: Tensor, border: DocumentBorder | None) -> Tensor:
    """Return the number of each token's document within its sequence, (B, T), ascending."""
    if border is None:
        return torch.zeros_like(tokens_BT)
    at_border_BT = tokens_BT == border.token
    document_BT = at_border_BT.cumsum(dim=1)
    if not border.opens:  # EOS belongs to the document that it ends
        document_BT = document_BT - at_border_BT.long()
    return document_BT


def attend(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, mask: Mask | None) -> Tensor:
    """Return the values mixed by attention, (B, H, T, E); without a mask it is causal."""
    if mask is not None and not isinstance(mask, Tensor):
        from trainer.model import flex

        return flex.attend(q_BHTE, k_BKTE, v_BKTE, mask)
    grouped = q_BHTE.shape[1] != k_BKTE.shape[1]
    return F.scaled_dot_product_attention(
        q_BHTE, k_BKTE, v_BKTE, mask, is_causal=mask is None, enable_gqa=grouped
    )
