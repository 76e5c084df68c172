"""Copying batches to the device, ahead of the step that uses them."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.tokens.tokenizer import Tokens


def preparation(device: torch.device) -> Callable[[Tokens], Tensor]:
    """Return the function that the loader's thread applies to each batch of token ids.

    For a GPU: pin them, in the shards' dtype, so that they are copied while the previous step
    computes. For a CPU: convert them to int64, which the operations need.
    """
    if device.type == "cpu":
        return lambda batch: torch.from_numpy(batch.astype("int64"))
    return lambda batch: torch.from_numpy(batch).pin_memory()


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Return a prepared batch on the device, int64, without waiting for the copy."""
    if device.type == "cpu":
        return batch
    return batch.to(device, non_blocking=True).to(torch.int64)
