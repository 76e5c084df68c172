"""How the model runs: resolving `auto`, kernels, compilation, parallelism."""
