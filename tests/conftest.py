"""What holds for all tests, on whatever machine and however they were started."""

import os
import signal

from hypothesis import settings

# With matrices this small, BLAS threads only wait for each other. Read when numpy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# An example takes as long as the machine needs.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A script's background jobs ignore Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
