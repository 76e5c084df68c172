"""How weights are drawn: from a truncated normal whose sigma depends on the matrix."""

import torch
from torch import Tensor

from trainer.config import ModelConfig

TRUNCATION_SIGMAS = 3.0


def draw_truncated(shape: torch.Size, sigma: float, generator: torch.Generator) -> Tensor:
    """Return normal numbers of mean 0; those beyond TRUNCATION_SIGMAS are drawn again.

    The bits are those of `nn.init.trunc_normal_` in torch 2.13, which takes twice the CPU time: for
    the few that are outside, it compares and copies all numbers again.
    """
    edge = TRUNCATION_SIGMAS * sigma
    drawn = torch.empty(shape).normal_(0.0, sigma, generator=generator)
    values, again = drawn.view(-1), torch.empty(drawn.numel())
    outside = (values.abs() > edge).nonzero().squeeze(1)
    while len(outside):
        again.normal_(0.0, sigma, generator=generator)
        candidates = again[outside]
        values[outside] = candidates
        outside = outside[candidates.abs() > edge]
    return drawn


def sigma_of(config: ModelConfig, name: str) -> float:
    """Return a matrix's standard deviation: d^-0.5 (w2: h^-0.5), or as the config says."""
    if not name.startswith("layers."):
        return config.dim**-0.5
    hidden = name.endswith("feed_forward.w2.weight")
    sigma = config.init_base_std or (config.ffn_hidden if hidden else config.dim) ** -0.5
    if not name.endswith(("w2.weight", "wo.weight")):
        return sigma
    depth = int(name.split(".")[1])
    factor = {
        "disabled": 1.0,
        "global_depth": (2 * (config.n_layers + 1)) ** 0.5,
        "current_depth": (2 * (depth + 1)) ** 0.5,
        "dim_ratio": config.dim / 4096,
    }[config.init_std_factor]
    return sigma / factor
