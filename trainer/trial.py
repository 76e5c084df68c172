"""What takes training steps without data and files: to time them, or to compile them for others."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainer import kernels
from trainer.compiling import compile_blocks
from trainer.config import ConfigError, RunConfig, load_run_config
from trainer.optim import AdamW
from trainer.parallel import World, get_world, resolve
from trainer.session import build_model, set_up_process


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
    if config.distributed.spreads_weights:
        problem = "distributed: weights are spread over processes; expected no_shard and tp_size: 1"
        raise ConfigError(purpose, [problem])
    world = get_world()
    set_up_process(config, world)
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


def run_command(arguments: Sequence[str], act: Callable[[RunConfig], str]) -> int:
    """Print what `act` says of the run that a command line names; return the exit code."""
    try:
        text = act(load_run_config(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(text, end="")
    return 0
