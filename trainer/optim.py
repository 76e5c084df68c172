"""The optimizer: AdamW with parameter groups, and the learning rate of each step."""

import math

import torch
from torch import nn

from trainer.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 1: linear warm-up, then half a cosine.

    Reaches lr at step `warmup` and lr * lr_min_ratio at step `steps`.
    """
    if step <= config.warmup:
        return config.lr * step / config.warmup
    # Without a step left to decay over, the last step is the peak.
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.lr * (config.lr_min_ratio + (1 - config.lr_min_ratio) * cosine)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over two groups: matrices decay, norm weights do not."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value
