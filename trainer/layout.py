"""How the model is spread over the processes: nothing, DDP, FSDP2, hybrid, tensor parallel.

One process has the bare model. no_shard is DDP's own reducer; full_shard is FSDP2, a copy of the
model on all processes or, as hybrid, on each group of dp_shard. tp_size splits the matrices of each
block by columns and then by rows (Megatron-LM, Shoeybi et al. 2019), with the sequence spread over
the same processes in between (Korthikanti et al. 2022). State dicts have the bare model's names
under each of them.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from trainer.config import ConfigError, DistributedConfig, RunConfig
from trainer.model import Transformer
from trainer.parallel import World


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
    if problems:
        raise ConfigError("run", problems)


def spread(model: Transformer, config: DistributedConfig, world: World) -> nn.Module:
    """Spread a model, whose weights are the same on all processes, and compile its blocks.

    Returns the module whose forward pass trains: the model itself, or DDP around it.
    """
    for layer in model.layers:
        layer.recompute = config.recompute  # type: ignore[assignment]
    copies, shards = config.data_parallel(world.size)
    mesh = None
    if world.size > 1:
        names = ("copies", "shards", "tp")
        mesh = init_device_mesh(
            world.device.type, (copies, shards, world.tp_size), mesh_dim_names=names
        )
        if world.tp_size > 1:
            _split_matrices(model, mesh["tp"])
    if config.compile:
        compile_blocks(model, config.compile_cache_size_limit)
    if mesh is None:
        return model
    # DDP does not know tensors that are split; FSDP2 with one shard for each copy does the same.
    if config.fsdp_type == "full_shard" or world.tp_size > 1:
        if copies * shards > 1:
            _shard(model, config, mesh["copies", "shards"] if copies > 1 else mesh["shards"])
        return model
    ids = [world.local_rank] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def _shard(model: Transformer, config: DistributedConfig, mesh: DeviceMesh) -> None:
    dtype = torch.bfloat16 if config.model_dtype == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _split_matrices(model: Transformer, mesh: DeviceMesh) -> None:
    """Split along heads and hidden width; between the matrices each process has some positions."""
    parallelize_module(
        model,
        mesh,
        {
            "tok_embeddings": RowwiseParallel(
                input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=True
            ),
            "norm": SequenceParallel(use_local_output=False),
            "output": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        },
    )
    for layer in model.layers:
        parallelize_module(
            layer,
            mesh,
            {
                "attention_norm": SequenceParallel(use_local_output=False),
                "attention": PrepareModuleInput(
                    input_layouts=(Shard(1), None, None, None),
                    desired_input_layouts=(Replicate(), None, None, None),
                ),
                "attention.wq": ColwiseParallel(),
                "attention.wk": ColwiseParallel(),
                "attention.wv": ColwiseParallel(),
                "attention.wo": RowwiseParallel(output_layouts=Shard(1)),
                "ffn_norm": SequenceParallel(use_local_output=False),
                "feed_forward": PrepareModuleInput(
                    input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),)
                ),
                "feed_forward.w1": ColwiseParallel(),
                "feed_forward.w3": ColwiseParallel(),
                "feed_forward.w2": RowwiseParallel(output_layouts=Shard(1)),
            },
        )


def compile_blocks(model: nn.Module, limit: int) -> None:
    """Compile each block; equal blocks share one compilation."""
    torch._dynamo.config.recompile_limit = limit
    for layer in model.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=False)


def synchronised(model: nn.Module, last_micro_step: bool) -> contextlib.AbstractContextManager:
    """Return the context of a micro step: gradients are reduced in the last one only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last_micro_step)
    elif isinstance(model, DistributedDataParallel) and not last_micro_step:
        return model.no_sync()
    return contextlib.nullcontext()


def clip_gradients(model: nn.Module, limit: float) -> Tensor:
    """Scale all gradients to a norm of at most `limit`; return the norm before, a scalar."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
