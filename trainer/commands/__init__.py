"""Commands beside training: export, autotune, precompile."""
