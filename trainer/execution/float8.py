"""Matrices in float8, by torchao."""

import re
from importlib.util import find_spec

import torch
from torch import nn

from trainer.config import DistributedConfig, RunConfig
from trainer.problems import ConfigError

NO_TORCHAO = "distributed.float8_recipe: needs torchao (pip install torchao)"


def check(config: RunConfig) -> None:
    """Raise ConfigError if a run needs torchao and it is not installed."""
    if config.distributed.float8_recipe is not None and find_spec("torchao") is None:
        raise ConfigError("run", [NO_TORCHAO])


def convert(model: nn.Module, config: DistributedConfig, device: torch.device) -> None:
    """Convert the matrices that match float8_filter to float8. Raises ConfigError."""
    if config.float8_recipe is None:
        return
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError("run", [f"{NO_TORCHAO}: {error}"]) from None
    settings = Float8LinearConfig.from_recipe_name(config.float8_recipe)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(
            "run",
            [
                f"distributed.float8_recipe = {config.float8_recipe}: not supported by this GPU; "
                "expected compute capability 8.9 or newer"
            ],
        )
    chosen = re.compile(config.float8_filter)

    def converts(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and bool(chosen.search(name)) and _fits_float8(module)

    convert_to_float8_training(model, config=settings, module_filter_fn=converts)


def _fits_float8(module: nn.Linear) -> bool:
    """Say whether both sides of a matrix are multiples of 16, as float8 matmuls require."""
    return module.in_features % 16 == 0 and module.out_features % 16 == 0
