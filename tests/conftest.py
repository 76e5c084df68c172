"""Tests compute with small matrices, on which BLAS threads only wait for each other."""

import os

from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded

# An example takes as long as the machine needs.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
