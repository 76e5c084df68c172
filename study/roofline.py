"""The roofline of a training step: a lower bound of its time from the measured rates of kernels.

Each operation of a step takes its time at the rate that it reaches alone. Operations between
matmuls and attention are fused and move each of their tensors once. No time is lost to launches, to
the CPU, to waiting, or to tensors that need not be written. No factor is fitted: a measured run is
slower, and the roofline shows by how much.

One GPU without activation checkpointing: communication is not counted.
"""

from dataclasses import dataclass

from study.cluster_config import RatesConfig
from study.grid import Cell
from study.workload import VALUE_BYTES, plan_dtype
from trainer.config import ModelConfig
from trainer.execution.choices import Dtype
from trainer.flops import block_norms, count_parameters, mean_context
from trainer.model.optimizers import MASTER_BYTES, optimizer_costs

BACKWARD_ATTENTION = 2.5
"""Backward over forward FLOPs of fused attention: five matmuls instead of two, as the scores are
recomputed. The same as in Dao 2023, "FlashAttention-2", section 4.1."""


@dataclass(frozen=True)
class Roofline:
    """The shortest step of one GPU, s, by kind of operation."""

    tokens: int
    """Tokens of the step."""
    matmul_s: float
    """Matmuls: blocks and logits, forward and backward."""
    attention_s: float
    """Fused causal attention, forward and backward."""
    pointwise_s: float
    """Operations between them: norms, residual sums, rotary positions, activations, embedding."""
    loss_s: float
    """Cross entropy of the logits, forward and backward."""
    optimizer_s: float
    """Gradient norm and AdamW."""

    @property
    def step_s(self) -> float:
        """The whole step, s."""
        return self.matmul_s + self.attention_s + self.pointwise_s + self.loss_s + self.optimizer_s

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second of one GPU."""
        return self.tokens / self.step_s


def step_roofline(
    model: ModelConfig,
    vocab_size: int,
    batch_size: int,
    seq_len: int,
    rates: RatesConfig,
    micro_batches: int = 1,
    context: float | None = None,
    optimizer: str = "adamw",
) -> Roofline:
    """Return the roofline of a step of `micro_batches` with batch_size x seq_len tokens each.

    `context` is the mean number of keys that a token attends to. If it is None, documents are not
    masked; for a run with `data.document_mask` that roofline is too low.
    """
    if context is None:
        context = mean_context(seq_len, model.sliding_window)
    tokens = batch_size * seq_len * micro_batches
    value, bytes_per_s = VALUE_BYTES[rates.dtype], rates.copy_tb_s * 1e12
    attention = attention_flops(model, context) * tokens / 1e12
    backward_s = BACKWARD_ATTENTION * attention / rates.attention_backward_tflops
    return Roofline(
        tokens=tokens,
        matmul_s=matmul_flops(model, vocab_size) * tokens / (rates.matmul_tflops * 1e12),
        attention_s=attention / rates.attention_forward_tflops + backward_s,
        pointwise_s=pointwise_values(model) * value * tokens / bytes_per_s,
        # Logits in, their gradient out; the softmax between them stays on chip.
        loss_s=2 * vocab_size * value * tokens / bytes_per_s,
        optimizer_s=optimizer_bytes(model, vocab_size, value, optimizer) / bytes_per_s
        + optimizer_flops(model, vocab_size, optimizer) / (rates.matmul_tflops * 1e12),
    )


def matmul_flops(model: ModelConfig, vocab_size: int) -> float:
    """Return the FLOPs per token of matmuls with weights, forward and backward."""
    count = count_parameters(model, vocab_size)
    norms = model.n_layers * block_norms(model) + model.dim
    # 2 per weight forward, and as many each for the gradients of inputs and of weights.
    return 6.0 * (count.without_embedding - norms)


def attention_flops(model: ModelConfig, context: float) -> float:
    """Return the forward FLOPs per token of attention: two matmuls with `context` keys.

    `context` is the mean number of keys that a token attends to, see trainer.flops.mean_context.
    """
    return 4.0 * model.n_layers * model.q_dim * context


def pointwise_values(model: ModelConfig) -> int:
    """Return the number of values per token that the fused pointwise operations move.

    norm (two a block and the last), forward: input in, output out. Backward: gradient and input in,
    gradient out.
    residual sum (two a block, fused with the norm after it), forward: branch in, sum out. Backward:
    the gradient that bypasses the norm in; the norm's gradient is added to it, and the branch reads
    the same tensor.
    rotary positions, forward and backward: queries and keys in and out. With qk_norm they are fused
    with that norm, if there are any: backward also reads its input.
    SwiGLU, forward: both halves in, product out. Backward: gradient and both halves in, both
    gradients out. GELU and squared ReLU, forward: in and out. Backward: gradient and input in,
    gradient out.
    embedding, forward: row in, output out. Backward: gradient in.
    """
    norms, sums = 2 * model.n_layers + 1, 2 * model.n_layers
    norm = (2 + 3) * norms
    add = (2 + 1) * sums
    of_heads = 2 + 3 if model.qk_norm else 2 + 2 if model.pos_embed == "rope" else 0
    heads = of_heads * (model.q_dim + model.kv_dim)
    activation = (3 + 5 if model.is_gated else 2 + 3) * model.ffn_hidden
    embedding = 2 + 1
    return (norm + add + embedding) * model.dim + model.n_layers * (heads + activation)


def optimizer_bytes(model: ModelConfig, vocab_size: int, value_bytes: int, optimizer: str) -> float:
    """Return the bytes moved by the gradient norm and the update of all parameters.

    The norm reads each gradient. The update moves the optimizer's `traffic_bytes` and, if matmuls
    have lower precision, writes a copy of the weight for them.
    """
    copy = value_bytes if value_bytes < MASTER_BYTES else 0
    traffic = optimizer_costs(optimizer, model, vocab_size).traffic_bytes
    return count_parameters(model, vocab_size).total * (MASTER_BYTES + traffic + copy)


def optimizer_flops(model: ModelConfig, vocab_size: int, optimizer: str) -> float:
    """Return the FLOPs of the update's matmuls."""
    costs = optimizer_costs(optimizer, model, vocab_size)
    return count_parameters(model, vocab_size).total * costs.flops


def cell_roofline(
    cell: Cell, context: float | None = None, dtype: Dtype | None = None
) -> Roofline | None:
    """Return the roofline of a cell's step.

    `context` and `dtype` are `attention_context` and `model_dtype` of its run, if it was run.

    None if the cluster has no rates, if their dtype differs from the run's, or for several GPUs,
    whose communication is not counted.
    """
    rates, run = cell.cluster_config.rates, cell.run
    if rates is None or cell.gpus > 1:
        return None
    if (dtype or plan_dtype(cell)) != rates.dtype:
        return None
    return step_roofline(
        run.model,
        run.data.tokenizer.vocab_size,
        run.data.batch_size,
        run.data.seq_len,
        rates,
        run.grad_acc_steps,
        context,
        run.optim.name,
    )
