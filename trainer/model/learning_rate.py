"""The learning rate of each step: linear warm-up, then a schedule. Imports no torch."""

import math
from collections.abc import Callable

from trainer.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 1, of a run of `steps`.

    lingua's schedules, with its names: linear warm-up to lr at step `warmup`, then one of the
    functions below; `constant` is lr from the first step on.
    """
    if config.scheduler == "constant":
        return config.lr
    if step <= config.warmup:
        return config.lr * step / config.warmup
    return config.lr * SCHEDULES[config.scheduler](config, step, steps)


def _progress(config: OptimConfig, step: int, steps: int) -> float:
    # Without a step left to decay over, the last step is the peak.
    return (step - config.warmup) / max(1, steps - config.warmup)


def _cosine(config: OptimConfig, step: int, steps: int) -> float:
    """Half a cosine down to lr_min_ratio; with shorter cycles each begins anew at lr."""
    turns = math.pi * _progress(config, step, steps) ** config.cosine_theta / config.cycle_length
    cycle = math.ceil(step / (steps * config.cycle_length)) - 1
    sign = -1 if cycle % 2 else 1
    return config.lr_min_ratio + (1 - config.lr_min_ratio) * 0.5 * (1 + sign * math.cos(turns))


def _linear(config: OptimConfig, step: int, steps: int) -> float:
    return 1 - (1 - config.lr_min_ratio) * _progress(config, step, steps)


def _inv_sqrt(config: OptimConfig, step: int, steps: int) -> float:
    return max((config.warmup / step) ** config.exp_factor, config.lr_min_ratio)


def _wsd(config: OptimConfig, step: int, steps: int) -> float:
    """Warm-up, stable, decay: each cycle ends in a decay whose inverse is linear.

    Wen et al. 2024, "Understanding Warmup-Stable-Decay Learning Rates", arXiv:2410.05192.
    """
    cycle = int(steps * config.cycle_length)
    end = steps if step == steps else cycle * (step // cycle + 1)
    decay = int(end * config.decay_fraction)
    if step <= end - decay:
        return 1.0
    progress = (step - (end - decay)) / decay
    return 1 / (progress / config.lr_min_ratio + (1 - progress))


SCHEDULES: dict[str, Callable[[OptimConfig, int, int], float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "inv_sqrt": _inv_sqrt,
    "wsd": _wsd,
}
"""Name -> learning rate after the warm-up as a fraction of lr: (config, step, steps)."""
