"""Times of alternating steps, and how measurements are summarized in text."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

WARM_UP = 5
"""Untimed steps of each contender."""


def seconds(work: Callable[[], object]) -> float:
    """Return the time of a call, s, with what it has launched on a GPU."""
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for what has been launched on a GPU, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def alternate(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the times of each contender's steps, s; the contenders alternate step by step."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    gc.collect()
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            times[name].append(seconds(step))
    gc.unfreeze()
    return times


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of each turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def quantile_text(values: Sequence[float]) -> str:
    """Return the median of ratios, with the 10th and 90th percentile."""
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return f"x{middle:.2f} ({low:.2f} to {high:.2f})"


def range_text(values: Sequence[float], form: str, unit: str = "") -> str:
    """Return the median of a few values, with the minimum and maximum."""
    middle = statistics.median(values)
    return f"{middle:{form}}{unit} ({min(values):{form}} to {max(values):{form}})"
