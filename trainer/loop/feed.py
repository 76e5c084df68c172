"""How a batch comes to the device: small token ids, copied ahead of the step that uses them."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.tokens.tokenizer import Tokens


def preparation(device: torch.device) -> Callable[[Tokens], Tensor]:
    """Return what the loader's thread does with a batch of token ids before a step asks for it.

    For a GPU: the ids, small as the shards have them, in pinned memory, from where they are copied
    while the step before computes. For a CPU: int64, as the operations want them.
    """
    if device.type == "cpu":
        return lambda batch: torch.from_numpy(batch.astype("int64"))
    return lambda batch: torch.from_numpy(batch).pin_memory()


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Return a prepared batch on the device, int64; the copy is not waited for."""
    if device.type == "cpu":
        return batch
    return batch.to(device, non_blocking=True).to(torch.int64)
