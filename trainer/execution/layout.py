"""How the model is spread over the processes: nothing, DDP, FSDP2, hybrid, tensor parallel.

One process has the bare model. no_shard is DDP's own reducer; full_shard is FSDP2, a copy of the
model on all processes or, as hybrid, on each group of dp_shard. tp_size splits the matrices of each
block by columns and then by rows (Megatron-LM, Shoeybi et al. 2019), with the sequence spread over
the same processes in between (Korthikanti et al. 2022). State dicts have the bare model's names
under each of them.
"""

import contextlib
import warnings

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import DistributedConfig
from trainer.execution.choices import Choices, is_sharded
from trainer.execution.compiling import compile_blocks
from trainer.model.model import Transformer
from trainer.world import World

# FSDP2 and tensor parallelism, trainer.execution.layout_sharded, are imported where they are used.


def parallelize(
    model: Transformer, config: DistributedConfig, choices: Choices, world: World
) -> nn.Module:
    """Compile a model's blocks and distribute it; its weights are the same on all processes.

    Returns the module whose forward pass trains: the model itself, or DDP around it.
    """
    mesh = None
    if is_sharded(config, world.size):
        from trainer.execution.layout_sharded import build_mesh, shard, split_matrices

        mesh = build_mesh(config, world)
        if world.tp_size > 1:
            split_matrices(model, mesh["tp"])
    if choices.compiled:
        compile_blocks(model, config.compile_cache_size_limit)
    if mesh is not None:
        shard(model, config, choices.model_dtype, world, mesh)
    if mesh is not None or world.size == 1:
        return model
    ids = [world.local_rank] if world.device.type == "cuda" else None
    # Weights are the same by the way they are drawn or loaded; buffers never change.
    with warnings.catch_warnings():
        # torch 2.13 has a new name for broadcast_buffers, which older versions do not know.
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
    """Say whether gradients are summed in buckets, which are laid out anew after the first pass."""
    return isinstance(model, DistributedDataParallel)


def synchronised(model: nn.Module, last_micro_step: bool) -> contextlib.AbstractContextManager:
    """Return the context of a micro step: gradients are reduced in the last one only."""
    if isinstance(model, DistributedDataParallel):
        return contextlib.nullcontext() if last_micro_step else model.no_sync()
    reduces = getattr(model, "set_requires_gradient_sync", None)  # FSDP2's
    if reduces is not None:
        reduces(last_micro_step)
    return contextlib.nullcontext()
