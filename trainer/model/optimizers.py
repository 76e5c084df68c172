"""Registry of optimizers, with the memory that each needs. Imports no torch.

To add one, write a class with the interface of trainer/model/optimizer.py, add its settings to
`OptimConfig`, and register it here.
"""

from dataclasses import dataclass

MASTER_BYTES = 4
"""Bytes of an fp32 parameter, and of its gradient."""


@dataclass(frozen=True)
class OptimizerKind:
    """An optimizer's class and memory."""

    module: str
    """Module of its class."""
    cls: str
    """Name of its class; called with the model and an `OptimConfig`."""
    state_bytes: int
    """Bytes of its state per parameter."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory per parameter: weight, gradient and state."""
        return 2 * MASTER_BYTES + self.state_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint per parameter: weight and state."""
        return MASTER_BYTES + self.state_bytes

    @property
    def traffic_bytes(self) -> int:
        """Bytes that an update moves per parameter: reads weight, gradient and state, writes weight
        and state."""
        return 3 * MASTER_BYTES + 2 * self.state_bytes


OPTIMIZERS = {
    "adamw": OptimizerKind("trainer.model.adamw", "AdamW", state_bytes=8),  # two fp32 moments
}
"""`optim.name` -> optimizer."""
