"""The terms of a step's time and of a GPU's memory, from the work of the step.

A term of the time is that of one part alone, at the rates of the cluster's data sheet. Each term
has a coefficient that measurements determine, with a prior in `study.estimate.priors`, so what is
assumed here only sets the unit of the coefficient.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from study.cluster_config import ClusterConfig
from study.workload import Workload
from trainer.flops import mean_context

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

EAGER_PASSES = 3.5
"""Bytes of pointwise operations without fusion, over those with it. From eager steps of 206M on one
H200, before their pointwise operations became Triton kernels. docs/estimates.md says how much too
slow such steps were predicted once SwiGLU and rotary embedding were; norms, not measured yet,
followed."""

BUCKET_BYTES = 25 * 2**20
"""Gradients of one all-reduce without sharding: torch's default."""

HOP_S = 5e-6
"""Time of a message from one GPU to the next in a ring."""

STRAGGLING = 0.01
"""Share of the matmuls' time that each doubling of the GPUs adds. Assumed."""

LAUNCH_S = 1e-3
"""Time to launch the kernels of a layer, forward and backward. Assumed."""

COMPILED_LAUNCH_S = 0.4e-3
"""The same of a compiled layer, which has fewer kernels. Assumed."""

CONSTANT_S = 5e-3
"""Time of a step that no shape changes. Assumed."""

PROCESS_GIB = 0.4
"""Memory of a process before it has a model. Assumed."""

GROUP_GIB = 0.05
"""Memory of the libraries and buffers with which GPUs communicate. Assumed."""


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
    launch_s = COMPILED_LAUNCH_S if work.compiled else LAUNCH_S
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
        "launch": layers * micro_batches * (1 + again / 3) * launch_s,
        "optimizer": work.optimizer.traffic_bytes
        * work.params
        / (work.shard * split)
        / sheet.memory_bytes,
        **_traffic(work, sheet, matmul_s),
        "constant": CONSTANT_S,
    }


@dataclass(frozen=True)
class Messages:
    """What a GPU sends in a step, for one kind of parallelism.

    In a ring of n GPUs it is 1 - 1/n of the whole for a gather or a scatter and twice that for an
    all-reduce, in n - 1 hops each.
    """

    sent: float = 0.0
    """Bytes."""
    rate: float = 1.0
    """Bandwidth, bytes/s."""
    to_other_nodes: bool = False
    """Whether they leave the node."""
    hops: float = 0.0
    """Messages from one GPU to the next, one after the other."""

    @property
    def seconds(self) -> float:
        """Time to send them."""
        return self.sent / self.rate


def _traffic(work: Workload, sheet: DataSheet, matmul_s: float) -> dict[str, float]:
    """Return the communication terms; all 0 on one GPU.

    link, network: the bytes that a GPU sends, over the bandwidth inside the node, or of a node to
    the others. latency: the hops of its messages. stragglers: a share of the matmuls' time that
    grows with the logarithm of the GPUs that wait for each other.
    """
    kinds = [_of_shards(work, sheet), _of_copies(work, sheet), _of_tensor_parallel(work, sheet)]
    return {
        "link": sum((kind.seconds for kind in kinds if not kind.to_other_nodes), 0.0),
        "network": sum((kind.seconds for kind in kinds if kind.to_other_nodes), 0.0),
        "latency": sum(kind.hops for kind in kinds) * HOP_S,
        "stragglers": STRAGGLING * math.log2(work.gpus) * matmul_s,
    }


def _of_shards(work: Workload, sheet: DataSheet) -> Messages:
    """Return the messages between the GPUs that share the weights of a copy.

    The weights are gathered twice and their gradients scattered once per micro-batch.
    """
    if work.shard == 1:
        return Messages()
    weights = work.value_bytes * (work.params / work.tensor_parallel)
    crosses = work.shard * work.tensor_parallel > work.gpus_per_node
    return Messages(
        sent=3.0 * weights * work.grad_acc_steps * (1 - 1 / work.shard),
        rate=_node_rate(work, sheet) if crosses else sheet.link_bytes,
        to_other_nodes=crosses,
        hops=3 * work.n_layers * work.grad_acc_steps * (work.shard - 1),
    )


def _of_copies(work: Workload, sheet: DataSheet) -> Messages:
    """Return the messages between copies of the model: their gradients are all-reduced once a
    step, of a GPU's shard."""
    copies = work.gpus // work.tensor_parallel // work.shard
    if copies < 2:
        return Messages()
    params = work.params / work.tensor_parallel
    if work.shard > 1:
        gradients = work.value_bytes * params / work.shard
        # With a copy in each node, each adapter has a ring of its own.
        to_others = sheet.network_bytes
        hops = 2.0 * work.n_layers * (copies - 1)  # each layer's shard in a ring
    else:
        gradients = 4 * params  # in fp32
        to_others = _node_rate(work, sheet)
        hops = 2 * max(1.0, gradients / BUCKET_BYTES) * math.log2(copies)  # large buckets in a tree
    crosses = work.gpus > work.gpus_per_node
    return Messages(
        sent=2 * gradients * (1 - 1 / copies),
        rate=to_others if crosses else sheet.link_bytes,
        to_other_nodes=crosses,
        hops=hops,
    )


def _of_tensor_parallel(work: Workload, sheet: DataSheet) -> Messages:
    """Return the messages between the GPUs that split each matrix.

    A layer gathers and scatters its activations twice, forward and backward.
    """
    activations = work.value_bytes * work.tokens * work.dim * work.n_layers * work.grad_acc_steps
    return Messages(8 * activations * (1 - 1 / work.tensor_parallel), sheet.link_bytes)


def _node_rate(work: Workload, sheet: DataSheet) -> float:
    """Return the bandwidth of a ring through the GPUs of a node to other nodes, bytes/s.

    It leaves the node through the adapters of all its GPUs.
    """
    adapters = work.gpus_per_node / work.tensor_parallel
    return min(sheet.link_bytes, sheet.network_bytes * max(1.0, adapters))


COORDINATES: tuple[Callable[[Workload], float], ...] = (
    lambda work: math.log(work.params),
    lambda work: 0.5 * math.log(work.gpus),
    lambda work: math.log(work.seq_len),
    lambda work: math.log(work.tokens),
    lambda work: 0.5 * math.log(work.grad_acc_steps),
    lambda work: {"none": 0.0, "selective": 0.7, "full": 1.3}[work.recompute],
    lambda work: float(work.compiled),
    lambda work: float(work.shard > 1),
    lambda work: float(1 < work.shard < work.gpus // work.tensor_parallel),
    lambda work: 0.5 * math.log(work.tensor_parallel),
    lambda work: float(work.value_bytes > 2),
)
"""Natural logarithms of sizes, halved if the effect is weak, and settings as numbers."""


def position(work: Workload) -> list[float]:
    """Return the coordinates of a workload: the terms have similar errors at nearby positions."""
    return [coordinate(work) for coordinate in COORDINATES]


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
    return {**terms, "process": PROCESS_GIB, "group": GROUP_GIB if work.gpus > 1 else 0.0}


def stack(rows: list[dict[str, float]], width: int) -> np.ndarray:
    """Return terms as an array (rows, width), even if there are no rows."""
    return np.array([list(row.values()) for row in rows], dtype=float).reshape(len(rows), width)
