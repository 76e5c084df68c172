"""Registry of optimizers, with the memory and FLOPs that each needs. Imports no torch.

To add one, write a class with the interface of trainer/model/optimizer.py, add its settings to
`OptimConfig`, and register it here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import ModelConfig
from trainer.flops import block_matrices, count_parameters

MASTER_BYTES = 4
"""Bytes of an fp32 parameter, and of its gradient."""

NEWTON_SCHULZ_STEPS = 5
"""Iterations of Muon's orthogonalisation."""


@dataclass(frozen=True)
class OptimizerCosts:
    """What an optimizer costs for a model, as means over the parameters."""

    state_bytes: float
    """Bytes of its state per parameter."""
    flops: float = 0.0
    """FLOPs of its matmuls per parameter and step; 0 if it only reads and writes."""

    @property
    def memory_bytes(self) -> float:
        """Bytes of memory per parameter: weight, gradient and state."""
        return 2 * MASTER_BYTES + self.state_bytes

    @property
    def checkpoint_bytes(self) -> float:
        """Bytes of a checkpoint per parameter: weight and state."""
        return MASTER_BYTES + self.state_bytes

    @property
    def traffic_bytes(self) -> float:
        """Bytes that an update moves per parameter: reads weight, gradient and state, writes weight
        and state."""
        return 3 * MASTER_BYTES + 2 * self.state_bytes


ADAMW_COSTS = OptimizerCosts(state_bytes=8)  # two fp32 moments


def muon_costs(model: ModelConfig, vocab_size: int) -> OptimizerCosts:
    """Return Muon's: one fp32 momentum for the blocks' matrices, AdamW's state for the others.

    Each of its iterations multiplies a matrix (m, n), m <= n, with its own transpose, the product
    with itself, and this with the matrix: 2m^2n + 2m^3 + 2m^2n FLOPs.
    """
    shapes = [sorted(shape) for shape in block_matrices(model)]
    total = count_parameters(model, vocab_size).total
    inside = model.n_layers * sum(m * n for m, n in shapes)
    flops = NEWTON_SCHULZ_STEPS * sum(4 * m**2 * n + 2 * m**3 for m, n in shapes)
    return OptimizerCosts(
        state_bytes=(4 * inside + ADAMW_COSTS.state_bytes * (total - inside)) / total,
        flops=model.n_layers * flops / total,
    )


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer's class and costs."""

    module: str
    """Module of its class."""
    cls: str
    """Name of its class; called with the model and an `OptimConfig`."""
    costs: Callable[[ModelConfig, int], OptimizerCosts]
    """Returns what it costs for a shape and a vocabulary size."""


OPTIMIZERS = {
    "adamw": OptimizerKind("trainer.model.adamw", "AdamW", lambda model, vocab_size: ADAMW_COSTS),
    "muon": OptimizerKind("trainer.model.muon", "Muon", muon_costs),
}
"""`optim.name` -> optimizer."""


def optimizer_costs(name: str, model: ModelConfig, vocab_size: int) -> OptimizerCosts:
    """Return what an optimizer costs for a model."""
    return OPTIMIZERS[name].costs(model, vocab_size)
