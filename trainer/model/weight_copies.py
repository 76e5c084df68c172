"""bf16 copies of the blocks' matrices, which AdamW writes as it updates the weights.

Without them, autocast converts each matrix to bf16 in every forward pass and its gradient to fp32
in every backward pass: small kernels, each with a launch of its own. The weights stay in fp32, and
the copies are what autocast would compute from them, so the arithmetic is the same.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.model.linear import Linear

COPY_DTYPE = torch.bfloat16


def keep_copies(blocks: nn.Module, take_gradients: bool) -> Mapping[Tensor, Tensor]:
    """Have the matmuls of blocks read copies of their weights; return weight -> copy.

    From now on, what changes a weight has to write its copy. With `take_gradients`, the backward
    pass leaves bf16 gradients at the copies, for which gradients must not be summed over
    micro-batches or processes; otherwise it leaves fp32 gradients at the weights, as without
    copies.
    """
    copies: dict[Tensor, Tensor] = {}
    for module in blocks.modules():
        if isinstance(module, Linear):
            module.copy = module.weight.detach().to(COPY_DTYPE).requires_grad_(take_gradients)
            copies[module.weight] = module.copy
    return copies
