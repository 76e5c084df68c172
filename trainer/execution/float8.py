"""Matrices in float8, by torchao."""

import re
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn

from trainer.config import DistributedConfig, RunConfig
from trainer.flops import block_shapes
from trainer.problems import ConfigError

NO_TORCHAO = "distributed.float8_recipe: needs torchao (pip install torchao)"

MULTIPLE = 16
"""Both sides of a matrix have to be multiples of it, for float8 matmuls."""


def check(config: RunConfig) -> None:
    """Raise ConfigError if a run needs torchao and it is not installed, or has no matrix for it."""
    settings = config.distributed
    if settings.float8_recipe is None:
        return
    if find_spec("torchao") is None:
        raise ConfigError("run", [NO_TORCHAO])
    matrices = {
        f"layers.{layer}.{name}": shape
        for layer in range(config.model.n_layers)
        for name, shape in block_shapes(config.model).items()
        if len(shape) == 2
    }
    if not any(_converts(settings, name, shape) for name, shape in matrices.items()):
        known = ", ".join(
            f"{name} ({rows} x {columns})" for name, (rows, columns) in list(matrices.items())[:4]
        )
        problem = (
            f"= {settings.float8_filter}: found no matrix with such a name and sides that are "
            f"multiples of {MULTIPLE}; expected one or more of {known}, ..."
        )
        raise ConfigError("run", [f"distributed.float8_filter {problem}"])


def convert(model: nn.Module, config: DistributedConfig, device: torch.device) -> None:
    """Convert the blocks' matrices that match float8_filter to float8. Raises ConfigError."""
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

    def converts(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and _converts(config, name, module.weight.shape)

    convert_to_float8_training(model, config=settings, module_filter_fn=converts)


def _converts(config: DistributedConfig, name: str, shape: Sequence[int]) -> bool:
    """Say whether a matrix is converted. The loss reads the output matrix as it is, not by calling
    its module, so that only the blocks' are."""
    is_chosen = name.startswith("layers.") and re.search(config.float8_filter, name) is not None
    return is_chosen and all(side % MULTIPLE == 0 for side in shape)
