"""Learning-rate schedules with linear warm-up. Imports no torch."""

import math
from collections.abc import Callable

from trainer.config import OptimConfig

ROUNDING = 1e-8
"""More than the rounding error of a share of the steps: 0.29 * 100 is less than 29."""


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of step `step`, counted from 1, in a run of `steps`.

    lingua's schedules, with its names: linear warm-up to lr at step `warmup`, then one of
    `SCHEDULES`; `constant` is lr from the first step on.
    """
    if config.scheduler == "constant":
        return config.lr
    if step <= config.warmup:
        return config.lr * step / config.warmup
    return config.lr * SCHEDULES[config.scheduler](config, step, steps)


def _progress(config: OptimConfig, step: int, steps: int) -> float:
    return (step - config.warmup) / (steps - config.warmup)


def _cosine(config: OptimConfig, step: int, steps: int) -> float:
    """Half a cosine from lr down to lr_min_ratio, once per cycle."""
    angle = math.pi * _progress(config, step, steps) ** config.cosine_theta / config.cycle_length
    cycle = math.ceil(step / (steps * config.cycle_length) - ROUNDING) - 1
    sign = -1 if cycle % 2 else 1
    return config.lr_min_ratio + (1 - config.lr_min_ratio) * 0.5 * (1 + sign * math.cos(angle))


def _linear(config: OptimConfig, step: int, steps: int) -> float:
    return 1 - (1 - config.lr_min_ratio) * _progress(config, step, steps)


def _inv_sqrt(config: OptimConfig, step: int, steps: int) -> float:
    return max((config.warmup / step) ** config.exp_factor, config.lr_min_ratio)


def _wsd(config: OptimConfig, step: int, steps: int) -> float:
    """Warm-up, stable, decay: in each cycle's decay the inverse of the learning rate is linear.

    If the run ends within a cycle, that one's decay ends with the run.

    Wen et al. 2024, "Understanding Warmup-Stable-Decay Learning Rates", arXiv:2410.05192.
    """
    cycle = int(steps * config.cycle_length + ROUNDING)
    end = min(steps, cycle * -(-step // cycle))
    decay = int(end * config.decay_fraction + ROUNDING)
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
"""Name -> function (config, step, steps) of the learning rate after the warm-up / lr."""
