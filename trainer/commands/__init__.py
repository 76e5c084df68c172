"""Commands besides training: export, sample, autotune, precompile."""

from trainer.environment import check

check("torch", "numpy")
