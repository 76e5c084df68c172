"""Commands besides training: export, sample, autotune, precompile."""
