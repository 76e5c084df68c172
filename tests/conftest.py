"""Tests compute with small matrices, on which BLAS threads only wait for each other."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is loaded
