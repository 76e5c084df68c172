"""Waiting for what another process or thread does."""

import time
from collections.abc import Callable

PATIENCE_S = 300.0
"""How long a test waits for what takes seconds: a machine may have much else to do."""


def wait_until(
    holds: Callable[[], object], what: str, timeout_s: float = PATIENCE_S, pause_s: float = 0.01
) -> None:
    """Ask again and again until a condition holds; the error says what did not come in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(pause_s)
