"""Commands besides training: export, autotune, precompile."""

from trainer.environment import check

check("torch", "numpy")
