"""Commands besides training: export, autotune, precompile."""
