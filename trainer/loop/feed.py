"""The batches of a run, copied to the device ahead of the step that uses them."""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.config import RunConfig
from trainer.flops import mean_context
from trainer.model.masks import DocumentBorder
from trainer.tokens.context import documents_context, first_inputs
from trainer.tokens.data import BatchLoader
from trainer.tokens.order import DataStart
from trainer.tokens.shard_folder import Shards
from trainer.tokens.tokenizer import Tokens
from trainer.world import World


def open_loader(
    config: RunConfig, shards: dict[str, Shards], world: World, done: int, begin: DataStart
) -> BatchLoader:
    """Return the loader of the batches after step `done` of a run that begins at `begin`."""
    return BatchLoader(
        shards,
        config.data,
        seed=config.order_seed,
        grad_acc_steps=config.grad_acc_steps,
        rank=world.data_rank,
        world=world.data_size,
        start_step=done,
        stop_step=config.steps,
        begin=begin,
        prepare=_preparation(world.device),
    )


def attention_context(
    config: RunConfig, border: DocumentBorder | None, loader: BatchLoader, shards: dict[str, Shards]
) -> float:
    """Return the mean number of keys that a token attends to; in a long run, at its beginning."""
    window = config.model.sliding_window
    if border is None:
        return mean_context(config.data.seq_len, window)
    inputs = first_inputs(loader.order, shards, config.steps * loader.global_batch)
    return documents_context(inputs, border.token, border.opens, window)


def _preparation(device: torch.device) -> Callable[[Tokens], Tensor]:
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
