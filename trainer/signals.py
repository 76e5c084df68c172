"""The signals that ask a run to stop. Imports no torch."""

import signal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
"""Slurm's and torchrun's SIGTERM, the study's SIGUSR1, lingua's SIGUSR2, and Ctrl-C."""

TORCHRUN_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
"""Signals that torchrun forwards to its ranks by default; any other ends it without them.
PET_SIGNALS_TO_HANDLE replaces them."""
