"""The training loop: one run, from its start or newest checkpoint to its end."""

from trainer.environment import check

check("torch", "numpy")
