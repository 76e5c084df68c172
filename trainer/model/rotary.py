"""Rotary positions: the table of angles, and the rotation of queries and keys.

Shapes: see model.py.
"""

import math

import torch
from torch import Tensor

from trainer.config import RopeScaling


def rotary_table(
    seq_len: int, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Return cos and sin of the rotary angles, each (T, 1, E), float32.

    RoFormer (Su et al. 2021), in the half-split layout of transformers' Llama. The first half of
    sin is negated, as `rotate` needs it.
    """
    frequencies_E2 = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if scaling is not None:
        frequencies_E2 = scale_frequencies(frequencies_E2, scaling)
    angles_TE2 = torch.outer(torch.arange(seq_len, dtype=torch.float32), frequencies_E2)
    cos_TE2, sin_TE2 = angles_TE2.cos(), angles_TE2.sin()
    cos_TE = torch.cat((cos_TE2, cos_TE2), dim=-1)
    sin_TE = torch.cat((-sin_TE2, sin_TE2), dim=-1)
    return cos_TE[:, None], sin_TE[:, None]


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Return rotary frequencies, radians per position, as `RopeScaling` says.

    linear: position interpolation (Chen et al. 2023). llama3: Llama 3.1's, as in transformers.
    """
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    length = scaling.original_max_position_embeddings
    if low is None or high is None or length is None:  # linear
        return frequencies / scaling.factor
    turns = length * frequencies / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * ((1 - kept) / scaling.factor + kept)


def rotate(x_BTHE: Tensor, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
    """Rotate each pair (i, i + E/2) of a head by its position's angle, in float32."""
    # Rolling by half a head aligns each element with its partner.
    partner_BTHE = x_BTHE.roll(x_BTHE.shape[-1] // 2, -1)
    return torch.addcmul(x_BTHE * cos_T1E, partner_BTHE, sin_T1E).to(x_BTHE.dtype)
