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

from trainer.compiling import compile_blocks
from trainer.config import ConfigError, DistributedConfig, RunConfig
from trainer.model import Transformer
from trainer.parallel import World, is_sharded

# FSDP2 and tensor parallelism, trainer.layout_sharded, are imported where they are used.


def check_layout(config: RunConfig, gpus: int) -> None:
    """Raise ConfigError where the run does not fit on `gpus` processes."""
    problems = []
    try:
        config.distributed.data_parallel(gpus)
    except ValueError as error:
        problems.append(str(error))
    tp, model = config.distributed.tp_size, config.model
    for name, count in (("n_heads", model.n_heads), ("n_kv_heads", model.kv_heads)):
        if count % tp:
            problems.append(f"distributed.tp_size = {tp} does not divide model.{name} = {count}")
    if config.data.seq_len % tp:
        problems.append(
            f"distributed.tp_size = {tp} does not divide data.seq_len = {config.data.seq_len}"
        )
    if tp > 1 and model.weight_tying:
        problems.append("model.weight_tying: not offered with distributed.tp_size > 1")
    if config.distributed.cuda_graphs and gpus > 1:
        problems.append(f"distributed.cuda_graphs: offered on one GPU, not on {gpus}")
    if problems:
        raise ConfigError("run", problems)


def spread(
    model: Transformer, config: DistributedConfig, world: World, compiled: bool = False
) -> nn.Module:
    """Spread a model, whose weights are the same on all processes, over them; compile its blocks.

    Returns the module whose forward pass trains: the model itself, or DDP around it.
    """
    mesh = None
    if is_sharded(config, world):
        from trainer.layout_sharded import build_mesh, shard, split_matrices

        mesh = build_mesh(config, world)
        if world.tp_size > 1:
            split_matrices(model, mesh["tp"])
    if compiled:
        compile_blocks(model, config.compile_cache_size_limit)
    if mesh is not None:
        shard(model, config, world, mesh)
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
