"""The optimizers by name: where each one is, and what it costs. Imports no torch.

A new one is a file with a class that follows trainer/model/optimizer.py, its settings, and a line
here.
"""

from dataclasses import dataclass

MASTER_BYTES = 4
"""Bytes of a parameter, and of its gradient, fp32."""


@dataclass(frozen=True)
class OptimizerKind:
    """What is known of an optimizer without building it."""

    module: str
    """Module of its class."""
    cls: str
    """Name of its class, called with the model and the settings."""
    state_bytes: int
    """Bytes of its state for each parameter."""

    @property
    def memory_bytes(self) -> int:
        """Bytes of memory for each parameter: weight, gradient and state."""
        return 2 * MASTER_BYTES + self.state_bytes

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint for each parameter: weight and state."""
        return MASTER_BYTES + self.state_bytes

    @property
    def traffic_bytes(self) -> int:
        """Bytes that a step moves for each parameter.

        Weight, gradient and state are read, weight and state are written.
        """
        return 3 * MASTER_BYTES + 2 * self.state_bytes


OPTIMIZERS = {
    "adamw": OptimizerKind("trainer.model.adamw", "AdamW", state_bytes=8),  # two fp32 moments
}
"""`optim.name` -> what is known of it."""
