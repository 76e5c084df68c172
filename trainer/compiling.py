"""torch.compile: when it pays, what is compiled, and where compiled code is kept.

Each block is compiled for static shapes; equal blocks share one compilation, so the first step
waits for one block and not for all of them.
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from trainer.config import RunConfig
from trainer.flops import count_parameters
from trainer.parallel import World

Cache = Literal["cold", "warm"]

PAYS_AFTER: dict[Cache, float] = {"cold": 900.0, "warm": 80.0}
"""Steps after which compiling had paid for itself on two CPU cores, with and without a filled
cache, for a model of `REFERENCE_WORK`."""

REFERENCE_WORK = 1e6 * 2048
"""Parameters x tokens of such a step; a larger one is taken to gain more seconds in proportion."""

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Where torch and Triton keep compiled code; what a user has set stands."""


def use_cache(folder: str | None) -> None:
    """Keep compiled code in a folder, unless the environment names one. Call before compiling."""
    if folder is None:
        return
    path = Path(folder).absolute()
    for variable, name in zip(VARIABLES, ("inductor", "triton"), strict=True):
        os.environ.setdefault(variable, str(path / name))


def is_warm() -> bool:
    """Say whether the cache of compiled code holds any."""
    path = os.environ.get(VARIABLES[0])
    return path is not None and Path(path, "fxgraph").is_dir()


def should_compile(config: RunConfig, world: World) -> bool:
    """Say whether a run's blocks are compiled: what the config says, and on `auto` what pays."""
    wanted = config.distributed.compile
    if wanted != "auto":
        return wanted
    if world.device.type != "cpu":
        return True
    params = count_parameters(config.model, config.data.tokenizer.vocab_size).total
    work = params * config.data.batch_size * config.data.seq_len * config.grad_acc_steps
    needed = PAYS_AFTER["warm" if is_warm() else "cold"] * REFERENCE_WORK / work
    return config.steps > needed


def compile_blocks(model: nn.Module, limit: int) -> None:
    """Compile each block at its first call; equal blocks share one compilation."""
    torch._dynamo.config.recompile_limit = limit
    for layer in model.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=False)


def uncompiled(model: nn.Module) -> contextlib.AbstractContextManager:
    """Return a context in which the blocks run as they are: what runs seldom is not compiled."""
    if model.layers[0]._compiled_call_impl is None:  # type: ignore[index, union-attr]
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")
