from typing import Any

import pytest
import torch

from trainer.config import ModelConfig
from trainer.model.random_weights import draw_truncated, sigma_of


@pytest.mark.parametrize("shape", [(3,), (40, 30), (1000, 300)])
def test_outliers_are_drawn_again(shape: tuple[int, ...]) -> None:
    """As a plain loop over whole tensors does it."""
    plainly, ours = (torch.Generator().manual_seed(5) for _ in range(2))
    expected = torch.empty(shape).normal_(0.0, 0.07, generator=plainly)
    while (expected.abs() > 3 * 0.07).any():
        again = torch.empty(shape).normal_(0.0, 0.07, generator=plainly)
        expected = torch.where(expected.abs() > 3 * 0.07, again, expected)
    assert torch.equal(draw_truncated(torch.Size(shape), 0.07, ours), expected)
    assert torch.equal(plainly.get_state(), ours.get_state())


@pytest.mark.parametrize(
    ("settings", "embedding", "wq", "wo", "w2"),
    [
        ({}, 1 / 8, 1 / 8, 1 / 8, 1 / 16),
        # sqrt(2 (L + 1)) = 4, sqrt(2 (l + 1)) = 2, d / 4096 = 1 / 64
        ({"init_std_factor": "global_depth"}, 1 / 8, 1 / 8, 1 / 32, 1 / 64),
        ({"init_std_factor": "current_depth"}, 1 / 8, 1 / 8, 1 / 16, 1 / 32),
        ({"init_std_factor": "dim_ratio"}, 1 / 8, 1 / 8, 8.0, 4.0),
        ({"init_base_std": 0.02}, 1 / 8, 0.02, 0.02, 0.02),
        ({"init_base_std": 0.02, "init_std_factor": "global_depth"}, 1 / 8, 0.02, 0.005, 0.005),
    ],
    ids=str,
)
def test_sigmas_by_hand(
    settings: dict[str, Any], embedding: float, wq: float, wo: float, w2: float
) -> None:
    """The second of seven blocks, d = 64 and h = 256."""
    shape = {"dim": 64, "n_layers": 7, "n_heads": 2, "multiple_of": 256}
    config = ModelConfig.model_validate({**shape, **settings})
    expected = {
        "tok_embeddings": embedding,
        "output": embedding,
        "layers.1.attention.wq": wq,
        "layers.1.attention.wk": wq,
        "layers.1.attention.wv": wq,
        "layers.1.feed_forward.w1": wq,
        "layers.1.feed_forward.w3": wq,
        "layers.1.attention.wo": wo,
        "layers.1.feed_forward.w2": w2,
    }
    found = {name: sigma_of(config, f"{name}.weight") for name in expected}
    assert found == pytest.approx(expected)
