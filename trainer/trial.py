"""What takes training steps without data and files: to time them, or to compile them for others."""

from dataclasses import dataclass

import torch
from torch import nn

from trainer import host, kernels
from trainer.compiling import compile_blocks, use_cache
from trainer.config import ConfigError, RunConfig
from trainer.optim import AdamW
from trainer.parallel import World, get_world, resolve, set_arithmetic, set_threads
from trainer.session import build_model


@dataclass
class Trial:
    """What `trainer.step` works with."""

    config: RunConfig
    world: World
    trained: nn.Module
    optimizer: AdamW


def prepare(config: RunConfig, purpose: str) -> World:
    """Set threads, arithmetic and caches as a run does; return this process, which is alone.

    Raises ConfigError, of `purpose`, where the run's weights are spread over processes.
    """
    if config.distributed.fsdp_type == "full_shard" or config.distributed.tp_size > 1:
        problem = "distributed: weights are spread over processes; expected no_shard and tp_size: 1"
        raise ConfigError(purpose, [problem])
    world = get_world()
    kernels.check(config, world.device)
    set_threads(config.distributed, world)
    set_arithmetic(config.distributed)
    use_cache(config.distributed.compile_cache)
    if world.device.type == "cpu":
        host.keep_freed_memory()
    return world


def open_trial(config: RunConfig, world: World, compiled: bool) -> Trial:
    """Return a model with first weights and its optimizer, as a run would make them."""
    torch.manual_seed(0)
    model = build_model(config, world)
    kernels.use(kernels.agree_on(config, world), model)
    kernels.use_float8(model, resolve(config.distributed, world.device), world.device)
    if compiled:
        compile_blocks(model, config.distributed.compile_cache_size_limit)
    return Trial(config, world, model, AdamW(model, config.optim))
