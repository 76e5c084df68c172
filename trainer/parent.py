"""What a process does when the process that started it dies. Imports no torch."""

import ctypes
import signal
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2)

# Loaded here, as between fork and exec only few functions may be called.
LIBC: Any = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
