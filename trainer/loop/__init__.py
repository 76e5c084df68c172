"""The training loop: one run, from its start or newest checkpoint to its end."""
