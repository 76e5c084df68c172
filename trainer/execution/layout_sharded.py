"""FSDP2 and tensor parallelism: weights sharded over processes (DTensor).

Imported only if a run needs it: the import takes a second.
"""

import datetime

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)

from trainer.config import DistributedConfig
from trainer.execution.choices import Dtype
from trainer.execution.precision import DTYPES
from trainer.model.model import Transformer
from trainer.world import World


def build_mesh(config: DistributedConfig, world: World) -> DeviceMesh:
    """Return the mesh of the processes, with the axes dp_replicate, dp_shard and tp."""
    dp_replicate, dp_shard = config.data_parallel(world.size)
    mesh = init_device_mesh(
        world.device.type,
        (dp_replicate, dp_shard, world.tp_size),
        mesh_dim_names=("dp_replicate", "dp_shard", "tp"),
    )
    for group in mesh.get_all_groups():  # they do not inherit the timeout
        _set_timeout(world.timeout, group)
    return mesh


def _set_timeout(timeout: datetime.timedelta, group: dist.ProcessGroup) -> None:
    # torch 2.13 lacks the public one, 2.15 warns of the other.
    public = getattr(dist, "set_timeout", None)
    (public or dist.distributed_c10d._set_pg_timeout)(timeout, group)


def shard(
    model: Transformer,
    config: DistributedConfig,
    dtype: Dtype,
    world: World,
    mesh: DeviceMesh,
) -> None:
    """Shard each block's weights, gradients and optimizer state over dp_shard (FSDP2)."""
    dp_replicate, dp_shard = config.data_parallel(world.size)
    if dp_replicate * dp_shard == 1:
        return
    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES[dtype],
        reduce_dtype=DTYPES[config.reduce_dtype],
        cast_forward_inputs=False,  # the rotary tables stay float32
    )
    dp_mesh = mesh["dp_replicate", "dp_shard"] if dp_replicate > 1 else mesh["dp_shard"]
    for layer in model.layers:
        fully_shard(layer, mesh=dp_mesh, mp_policy=policy)
    fully_shard(model, mesh=dp_mesh, mp_policy=policy)


def split_matrices(model: Transformer, mesh: DeviceMesh) -> None:
    """Split matrices along heads and hidden width; in between, the sequence is sharded."""
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
    # Wait for the collective: given an AsyncCollectiveTensor, a compiled block returns a gradient
    # of the wrong class.
    model.tok_embeddings.register_forward_hook(lambda module, inputs, output: output.clone())
    config = model.config
    # Each process has whole heads, whose norms share their weights.
    of_heads = SequenceParallel(sequence_dim=2, use_local_output=True)
    norms = dict.fromkeys(("attention.q_norm", "attention.k_norm"), of_heads)
    for layer in model.layers:
        parallelize_module(
            layer,
            mesh,
            {
                **(norms if config.qk_norm else {}),
                **({"feed_forward.w3": ColwiseParallel()} if config.is_gated else {}),
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
                "feed_forward.w2": RowwiseParallel(output_layouts=Shard(1)),
            },
        )
