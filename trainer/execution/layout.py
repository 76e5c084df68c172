"""Distributes the model over the processes: DDP, FSDP2, hybrid sharding, tensor parallelism.

A single process uses the bare model. no_shard is DDP; full_shard is FSDP2, with one replica on all
processes or, as hybrid sharding, one per group of dp_shard. tp_size splits the matrices of each
block by columns and then by rows (Megatron-LM, Shoeybi et al. 2019), with the sequence sharded over
the same processes in between (Korthikanti et al. 2022). State dicts have the bare model's names in
every layout.
"""

import contextlib
import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import DistributedConfig
from trainer.execution.choices import Choices
from trainer.execution.compiling import compile_blocks
from trainer.model.model import Transformer
from trainer.world import World

# trainer.execution.layout_sharded (FSDP2, tensor parallelism) is imported on use.


def parallelize(
    model: Transformer, config: DistributedConfig, choices: Choices, world: World
) -> nn.Module:
    """Compile a model's blocks and distribute it.

    `model` must have the same weights on all processes. Returns the module whose forward pass
    trains: the model itself, or DDP around it.
    """
    mesh = None
    if config.is_sharded(world.size):
        from trainer.execution.layout_sharded import build_mesh, shard, split_matrices

        mesh = build_mesh(config, world)
        if world.tp_size > 1:
            split_matrices(model, mesh["tp"])
    if choices.compiled:
        # FSDP2 and tensor parallelism hook into the modules of the loss.
        compile_blocks(model, config, with_loss=mesh is None)
    if mesh is not None:
        shard(model, config, choices.model_dtype, world, mesh)
        if world.device.type == "cuda":
            # Until here, each GPU had the whole model, which would be its peak for good.
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(world.device)
    if mesh is not None or world.size == 1:
        return model
    ids = [world.local_rank] if world.device.type == "cuda" else None
    # Weights are drawn or loaded equal on all ranks, so no sync; buffers never change.
    with warnings.catch_warnings():
        # torch 2.13 renamed broadcast_buffers; older versions lack the new name.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        wrapped = DistributedDataParallel(
            model,
            device_ids=ids,
            gradient_as_bucket_view=True,
            init_sync=False,
            broadcast_buffers=False,
        )
    if config.reduce_dtype == "bf16":
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        wrapped.register_comm_hook(None, bf16_compress_hook)
    return wrapped


def has_buckets(model: nn.Module) -> bool:
    """Say whether gradients are reduced in buckets, which DDP rebuilds after the first backward."""
    return isinstance(model, DistributedDataParallel)


def synchronised(model: nn.Module, is_last: bool) -> contextlib.AbstractContextManager:
    """Return the context of a micro-batch: gradients are reduced in the step's last one only."""
    if isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext() if is_last else model.no_sync()
    set_sync = getattr(model, "set_requires_gradient_sync", None)  # FSDP2's
    if set_sync is not None:
        set_sync(is_last)
    return contextlib.nullcontext()
