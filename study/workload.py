"""The work of one optimizer step on one GPU: operations, bytes and messages, from shape and layout.

A cell becomes a workload, and a workload becomes the terms of its step time: each is the time of
one part alone, at the rates of the cluster's data sheet.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from study.cluster_config import ClusterConfig
from study.grid import Cell
from trainer.config import ARCHITECTURE, ModelConfig, RunConfig, digest
from trainer.execution.choices import Dtype, has_bf16, loss_chunk, model_dtype
from trainer.flops import count_parameters, mean_context
from trainer.model.optimizers import ADAMW_COSTS, OptimizerCosts, optimizer_costs

VALUE_BYTES: dict[Dtype, int] = {"bf16": 2, "fp32": 4}
"""Bytes of an activation and of a weight in a matmul."""

LAYER_TENSORS = 34
"""Activations of a layer, in bytes per token and unit of width, in half precision.

Korthikanti et al. 2022, "Reducing Activation Recomputation", equation 1, without its attention
scores, which fused attention does not keep. `kept_share` scales it for other architectures."""

NOMINAL = {"peak_tflops": 0.05, "memory_tb_s": 0.01, "link_gb_s": 5.0}
"""Rates of a CPU core, used for clusters without a data sheet. The values hardly matter: the
measurements on such a cluster determine its speed."""

BYTES_PER_FLOP = 1 / 250
"""Memory bandwidth over peak, if only the peak is given. A100: 1/156, H100: 1/295."""

LINK_SHARE = 0.1
"""Bandwidth to other GPUs in the node over memory bandwidth, if it is not given."""

NETWORK_SHARE = 0.1
"""Bandwidth of a GPU to other nodes over that inside a node, if it is not given."""


@dataclass(frozen=True)
class DataSheet:
    """Rates of one GPU, per second."""

    flops: float
    """Dense matmuls in the dtype of the model."""
    memory_bytes: float
    """Bytes to and from its memory."""
    link_bytes: float
    """Bytes to GPUs in the same node."""
    network_bytes: float
    """Bytes to other nodes."""
    known: bool
    """The peak is from the data sheet, not nominal."""


def data_sheet(cluster_config: ClusterConfig) -> DataSheet:
    """Return the rates of a cluster's GPU; rates that are not set follow from the others."""
    known = cluster_config.peak_tflops is not None
    flops = (cluster_config.peak_tflops or NOMINAL["peak_tflops"]) * 1e12
    memory = flops * BYTES_PER_FLOP if known else NOMINAL["memory_tb_s"] * 1e12
    memory = cluster_config.memory_tb_s * 1e12 if cluster_config.memory_tb_s else memory
    link = memory * LINK_SHARE if known else NOMINAL["link_gb_s"] * 1e9
    link = cluster_config.link_gb_s * 1e9 if cluster_config.link_gb_s else link
    network = (
        cluster_config.network_gb_s * 1e9 if cluster_config.network_gb_s else link * NETWORK_SHARE
    )
    return DataSheet(flops, memory, link, network, known)


@dataclass(frozen=True)
class Workload:
    """The work of a step of one configuration."""

    params: int
    """Parameters of the model."""
    matmul_params: int
    """Parameters in matmuls: all except the input embedding's."""
    n_layers: int
    dim: int
    attention_dim: int
    """Total width of the query heads."""
    vocab_size: int
    seq_len: int
    batch_size: int
    """Sequences in a micro-batch of one GPU, or of one tensor-parallel group."""
    grad_acc_steps: int
    """Micro-batches in a step."""
    gpus: int
    gpus_per_node: int
    shard: int = 1
    """Data-parallel GPUs over which weights, gradients and optimizer state are sharded."""
    tensor_parallel: int = 1
    """GPUs over which each matrix is split."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activation checkpointing."""
    compiled: bool = False
    value_bytes: int = 2
    """Bytes of an activation."""
    unseen: str = ""
    """Digest of the settings that can change the speed but are not in the terms."""
    optimizer: OptimizerCosts = ADAMW_COSTS
    sliding_window: int | None = None
    """Maximum number of keys that a token attends to; None: all keys before it."""
    loss_chunk: int = 0
    """Tokens whose logits are in memory at once; 0: all."""
    kept_share: float = 1.0
    """Activations that a layer keeps, over those with a SwiGLU and without qk_norm."""

    @property
    def block_params(self) -> int:
        """Parameters in matmuls, without the output matrix."""
        return self.matmul_params - self.vocab_size * self.dim

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and width: cells with equal shape are of one model size."""
        return self.n_layers, self.dim

    @property
    def tokens(self) -> int:
        """Tokens in a micro-batch of one GPU."""
        return self.batch_size * self.seq_len


SETTINGS_IN_TERMS = {
    "data": ("batch_size", "seq_len"),
    "distributed": ("fsdp_type", "tp_size", "model_dtype", "compile"),
}
"""Group of settings -> settings in the terms, besides the model and top-level settings."""


def unseen_key(run: RunConfig, gpus: int) -> str:
    """Return a digest of the settings in `RunConfig.speed_key` that are not in the terms.

    Of the model, only what is not the default architecture.
    """
    values = run.speed_settings(gpus)
    other = {key: item for key, item in values.pop("model").items() if key in ARCHITECTURE}
    if other:
        values["model"] = other
    for name in ("gpus", "layout", "recompute", "vocab_size", "grad_acc_steps"):
        del values[name]
    for group, names in SETTINGS_IN_TERMS.items():
        values[group] = {key: item for key, item in values[group].items() if key not in names}
    return digest(values)


def kept_share(model: ModelConfig) -> float:
    """Return the activations that a layer keeps, over those with a SwiGLU and without qk_norm.

    Kept for the backward pass are the inputs of norms, matmuls, attention and the activation, so
    qk_norm adds queries and keys, and an ungated FFN is without one of three hidden tensors.
    """
    usual = model.model_copy(update={"qk_norm": False, "activation": "swiglu"})
    return _kept_values(model) / _kept_values(usual)


def _kept_values(model: ModelConfig) -> int:
    """Return the values per token that a layer keeps."""
    heads = model.q_dim + model.kv_dim
    hidden = (3 if model.is_gated else 2) * model.ffn_hidden
    return 4 * model.dim + (3 if model.qk_norm else 2) * heads + hidden


def plan_dtype(cell: Cell) -> Dtype:
    """Return the dtype of a cell that was not run.

    `auto` on a CPU depends on the CPU. That of another machine is not known; fp32 is the
    conservative choice then.
    """
    here = cell.cluster_config.slurm is None and has_bf16()
    return model_dtype(cell.run.distributed, cell.run.device, here) or "fp32"


def workload(cell: Cell, dtype: Dtype | None = None) -> Workload:
    """Return the workload of a cell's step; `dtype` is the one that its run used, if it was run."""
    run = cell.run
    vocab_size = run.data.tokenizer.vocab_size
    count = count_parameters(run.model, vocab_size)
    _, shard = run.distributed.data_parallel(cell.gpus)
    return Workload(
        params=count.total,
        matmul_params=count.without_embedding,
        n_layers=run.model.n_layers,
        dim=run.model.dim,
        attention_dim=run.model.q_dim,
        vocab_size=vocab_size,
        seq_len=run.data.seq_len,
        batch_size=run.data.batch_size,
        grad_acc_steps=run.grad_acc_steps,
        gpus=cell.gpus,
        gpus_per_node=cell.cluster_config.gpus_per_node,
        shard=shard,
        tensor_parallel=run.distributed.tp_size,
        recompute=run.distributed.ac_mode,
        compiled=cell.compiled,
        value_bytes=VALUE_BYTES[dtype or plan_dtype(cell)],
        unseen=unseen_key(run, cell.gpus),
        optimizer=optimizer_costs(run.optim.name, run.model, vocab_size),
        sliding_window=run.model.sliding_window,
        loss_chunk=loss_chunk(run.distributed, vocab_size),
        kept_share=kept_share(run.model),
    )


def step_terms(work: Workload, sheet: DataSheet) -> dict[str, float]:
    """Return the seconds of each part of a step, alone and at the data sheet's rates.

    matmul: 6 FLOPs per parameter and token, and 2 more in blocks with full activation
    checkpointing; and those of the optimizer. attention: 12*L*q FLOPs per token and key, and 4*L*q
    more with full activation checkpointing; the keys are those of `mean_context`, an upper bound
    with a document mask. activations: those that a layer keeps are written and read, `EAGER_PASSES`
    times as often if each pointwise operation is a kernel of its own. logits: written and read in
    fp32, forward and backward. launch: a layer's kernels, forward and backward. optimizer: its
    `traffic_bytes` per parameter held. For the others see `_traffic`.
    """
    again = {"none": 0.0, "selective": 0.0, "full": 1.0}[work.recompute]
    micro_batches, split = work.grad_acc_steps, work.tensor_parallel
    tokens, layers = work.tokens * micro_batches, work.n_layers
    context = mean_context(work.seq_len, work.sliding_window)
    attention = (12 + 4 * again) * layers * work.attention_dim * context
    kept = layers * work.dim * LAYER_TENSORS / 2 * work.value_bytes * work.kept_share
    pointwise = 1 + again / 3 if work.recompute != "selective" else 4 / 3
    pointwise *= 1.0 if work.compiled else EAGER_PASSES
    matmul_s = (6 * work.matmul_params + 2 * again * work.block_params) * tokens / split
    # Each GPU does the optimizer's matmuls with whole matrices.
    matmul_s = (matmul_s + work.optimizer.flops * work.params) / sheet.flops
    return {
        "matmul": matmul_s,
        "attention": attention * tokens / split / sheet.flops,
        "activations": 2 * kept * pointwise * tokens / split / sheet.memory_bytes,
        "logits": 4 * 4 * work.vocab_size * tokens / split / sheet.memory_bytes,
        "launch": layers * micro_batches * (1 + again / 3) * (0.4e-3 if work.compiled else 1e-3),
        "optimizer": work.optimizer.traffic_bytes
        * work.params
        / (work.shard * split)
        / sheet.memory_bytes,
        **_traffic(work, sheet, matmul_s),
        "constant": 5e-3,
    }


EAGER_PASSES = 3.5
"""Bytes of pointwise operations without fusion, over those with it: about what the eager steps of
206M on one H200 take longer than compiled ones."""

BUCKET_BYTES = 25 * 2**20
"""Gradients of one all-reduce without sharding: torch's default."""

HOP_S = 5e-6
"""Time of a message from one GPU to the next in a ring."""


def _traffic(work: Workload, sheet: DataSheet, matmul_s: float) -> dict[str, float]:
    """Return the communication terms; all 0 on one GPU.

    Sharded weights are gathered twice and their gradients scattered once per micro-batch, by the
    `shard` GPUs of a copy. The gradients of copies are all-reduced once a step, of a GPU's shard.
    link, network: the bytes that a GPU sends in these rings, 1 - 1/n of the whole for a gather and
    twice that for an all-reduce, over the bandwidth inside the node, or of a node to the others. A
    ring has as many steps as GPUs, each with the latency of a hop. stragglers: a share of the
    matmuls' time that grows with the logarithm of the GPUs that wait for each other.
    """
    groups = work.gpus // work.tensor_parallel
    copies = groups // work.shard
    # A node sends to the others through the adapters of all its GPUs in one ring.
    adapters = min(work.gpus, work.gpus_per_node) / work.tensor_parallel
    node_bytes = min(sheet.link_bytes, sheet.network_bytes * max(1.0, adapters))
    params, seconds = work.params / work.tensor_parallel, {"link": 0.0, "network": 0.0}
    hops = 0.0
    if work.shard > 1:
        sent = 3.0 * work.value_bytes * params * work.grad_acc_steps * (1 - 1 / work.shard)
        crosses = work.shard * work.tensor_parallel > work.gpus_per_node
        seconds["network" if crosses else "link"] += sent / (
            node_bytes if crosses else sheet.link_bytes
        )
        hops += 3 * work.n_layers * work.grad_acc_steps * (work.shard - 1)
    if copies > 1:
        each = (4 if work.shard == 1 else work.value_bytes) * params / work.shard
        crosses = work.gpus > work.gpus_per_node
        # With a copy in each node, each adapter has a ring of its own.
        own = sheet.network_bytes if work.shard > 1 else node_bytes
        seconds["network" if crosses else "link"] += (
            2 * each * (1 - 1 / copies) / (own if crosses else sheet.link_bytes)
        )
        # Each layer's shard in a ring; large buckets in a tree.
        hops += (
            2 * work.n_layers * (copies - 1)
            if work.shard > 1
            else 2 * max(1.0, each / BUCKET_BYTES) * math.log2(copies)
        )
    # A tensor-parallel layer gathers and scatters its activations twice, forward and backward.
    activations = work.value_bytes * work.tokens * work.dim * work.n_layers * work.grad_acc_steps
    inside = 8 * activations * (1 - 1 / work.tensor_parallel)
    seconds["link"] += inside / sheet.link_bytes
    return {
        **seconds,
        "latency": hops * HOP_S,
        "stragglers": 0.01 * math.log2(work.gpus) * matmul_s,
    }


COORDINATES = 11
"""Length of a position."""


def position(work: Workload) -> list[float]:
    """Return the coordinates of a workload: the terms have similar errors at nearby positions.

    Natural logarithms of sizes, halved if the effect is weak, and settings as 0 or 1.
    """
    return [
        math.log(work.params),
        0.5 * math.log(work.gpus),
        math.log(work.seq_len),
        math.log(work.tokens),
        0.5 * math.log(work.grad_acc_steps),
        {"none": 0.0, "selective": 0.7, "full": 1.3}[work.recompute],
        float(work.compiled),
        float(work.shard > 1),
        float(1 < work.shard < work.gpus // work.tensor_parallel),
        0.5 * math.log(work.tensor_parallel),
        float(work.value_bytes > 2),
    ]


def memory_terms(work: Workload) -> dict[str, float]:
    """Return the GiB of each part of a GPU's peak memory.

    states: weights, gradients and optimizer state.
    activations: `LAYER_TENSORS` for each layer; with full activation checkpointing each layer's
    input, and one whole layer. logits: in the model's dtype and in fp32, each with its gradient, of
    the tokens of one chunk of the loss. gathered: of sharded weights those in use, which are two
    layers, the embedding and the output matrix, with their gradients. process: the process itself.
    group: what it loads and keeps to communicate.
    """
    held = work.params / (work.shard * work.tensor_parallel)
    layer = work.tokens * work.dim * work.value_bytes / work.tensor_parallel
    whole = layer * LAYER_TENSORS / 2 * work.kept_share
    blocks = {
        "none": work.n_layers * whole,
        "selective": work.n_layers * whole / 2,
        "full": work.n_layers * layer + whole,
    }[work.recompute]
    at_once = min(work.tokens, work.loss_chunk or work.tokens)
    used = 2 * work.block_params / work.n_layers + work.params - work.block_params
    used = min(used, work.params) * 2 * work.value_bytes / work.tensor_parallel
    sizes = {
        "states": work.optimizer.memory_bytes * held,
        "activations": blocks,
        "logits": 2 * (4 + work.value_bytes) * at_once * work.vocab_size / work.tensor_parallel,
        "gathered": used if work.shard > 1 else 0.0,
    }
    terms = {name: size / 2**30 for name, size in sizes.items()}
    return {**terms, "process": 0.4, "group": 0.05 if work.gpus > 1 else 0.0}


def stack(rows: list[dict[str, float]], width: int) -> np.ndarray:
    """Return terms as an array (rows, width), even if there are no rows."""
    return np.array([list(row.values()) for row in rows], dtype=float).reshape(len(rows), width)
