"""torch.compile: what is compiled, and where compiled code is kept.

Each block is compiled for static shapes; equal blocks share one compilation, so the first step
waits for one block and not for all of them.
"""

import contextlib
import os
import sys
from pathlib import Path

import torch
from torch import nn

from trainer.config import DistributedConfig

VARIABLES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Where torch and Triton keep compiled code; what a user has set stands."""


def use_cache(folder: str | None) -> None:
    """Keep compiled code in a folder, unless the environment names one. Call before compiling."""
    if folder is None:
        return
    path = Path(folder).absolute()
    for variable, name in zip(VARIABLES, ("inductor", "triton"), strict=True):
        os.environ.setdefault(variable, str(path / name))


def is_compiled(config: DistributedConfig, device: torch.device) -> bool:
    """Say whether a run's blocks are compiled: what the config says, and on `auto` what pays."""
    return device.type != "cpu" if config.compile == "auto" else config.compile


def compile_blocks(model: nn.Module, limit: int) -> None:
    """Compile each block at its first call; equal blocks share one compilation."""
    torch._dynamo.config.recompile_limit = limit
    for layer in model.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=False)


def uncompiled() -> contextlib.AbstractContextManager:
    """Return a context in which blocks run as they are: what runs seldom is not compiled."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and loading it takes seconds
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")
