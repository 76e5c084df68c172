"""The training loop: one run from its start or its newest checkpoint to its end."""
