"""How the model runs: what `auto` stands for, kernels, compilation, parallelism."""
