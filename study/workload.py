"""The work of one optimizer step on one GPU, from shape and layout.

A cell becomes a workload, and `study.estimate.terms` makes the terms of its step time and of its
memory from it.
"""

from dataclasses import dataclass
from typing import Literal

from study.grid import Cell
from trainer.config import ARCHITECTURE, ModelConfig, RunConfig, digest
from trainer.execution.choices import Dtype, has_bf16, loss_chunk, model_dtype
from trainer.flops import count_parameters
from trainer.model.optimizers import ADAMW_COSTS, OptimizerCosts, optimizer_costs

VALUE_BYTES: dict[Dtype, int] = {"bf16": 2, "fp32": 4}
"""Bytes of an activation and of a weight in a matmul."""


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
    def sharding(self) -> Literal["none", "hybrid", "full"]:
        """Over which GPUs a copy of the weights is sharded: none, some, or all."""
        if self.shard == 1:
            return "none"
        return "hybrid" if self.shard < self.gpus // self.tensor_parallel else "full"

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
    dtype = model_dtype(cell.run.distributed, cell.run.device, here)
    assert dtype is not None, "the processor is known, or taken to be one without bf16"
    return dtype


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
