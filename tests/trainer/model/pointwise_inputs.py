"""Inputs of the kernels between matmuls."""

import torch
from torch import Tensor

LENGTH = 5
Shape = tuple[int, int, int]
SHAPES = [(4, 4, 16), (6, 2, 12)]
"""Query heads, key heads, width of a head."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers of a standard normal distribution."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
