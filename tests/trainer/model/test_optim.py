import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ModelConfig, OptimConfig
from trainer.model.adamw import AdamW
from trainer.model.learning_rate import learning_rate
from trainer.model.model import Transformer

GUIDE = OptimConfig(lr=3e-4, warmup=100, lr_min_ratio=0.1)


@pytest.mark.parametrize(
    ("step", "expected"), [(1, 3e-6), (50, 1.5e-4), (100, 3e-4), (300, 1.65e-4), (500, 3e-5)]
)
def test_schedule_by_hand(step: int, expected: float) -> None:
    assert learning_rate(GUIDE, step, 500) == pytest.approx(expected)


@given(st.integers(1, 400), st.integers(0, 400), st.floats(0, 1))
def test_schedule_rises_then_falls(steps: int, warmup: int, ratio: float) -> None:
    config = OptimConfig(lr=1.0, warmup=min(warmup, steps), lr_min_ratio=ratio)
    rates = [learning_rate(config, step, steps) for step in range(1, steps + 1)]
    rising, falling = rates[: config.warmup], rates[max(0, config.warmup - 1) :]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert all(math.isfinite(rate) and 0 <= rate <= 1 + 1e-12 for rate in rates)


@pytest.mark.parametrize(
    ("settings", "step", "expected"),
    [
        # No warm-up, no fall.
        ({"scheduler": "constant", "warmup": 10}, 1, 1.0),
        ({"scheduler": "constant"}, 100, 1.0),
        # Half way between steps 20 and 100, half way between 1 and 0.1.
        ({"scheduler": "linear", "warmup": 20}, 60, 0.55),
        ({"scheduler": "linear", "warmup": 20}, 100, 0.1),
        # sqrt(20 / 80), and not below the smallest.
        ({"scheduler": "inv_sqrt", "warmup": 20}, 80, 0.5),
        ({"scheduler": "inv_sqrt", "warmup": 20, "lr_min_ratio": 0.6}, 80, 0.6),
        # Stable up to step 80; half of the decay: 1 / (0.5 / 0.1 + 0.5); all of it.
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 80, 1.0),
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 90, 1 / 5.5),
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 100, 0.1),
        # Two cosines of 50 steps: the middle and the end of each.
        ({"cycle_length": 0.5}, 25, 0.55),
        ({"cycle_length": 0.5}, 50, 0.1),
        ({"cycle_length": 0.5}, 75, 0.55),
        ({"cycle_length": 0.5}, 100, 0.1),
        # cos(pi / 4) of a quarter: (step / steps)^2 = 1/4.
        ({"cosine_theta": 2.0, "lr_min_ratio": 0.0}, 50, 0.5 * (1 + math.cos(math.pi / 4))),
    ],
)
def test_other_schedules_by_hand(settings: dict, step: int, expected: float) -> None:
    config = OptimConfig(lr=1.0, **settings)
    assert learning_rate(config, step, 100) == pytest.approx(expected)


def test_norm_weights_do_not_decay() -> None:
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2), 258, 8)
    model.init_weights(0)
    optimizer = AdamW(model, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if parameter.ndim == 1 else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter, before[name] * factor)


def test_a_step_matches_adamw() -> None:
    """The first step of Adam moves each weight by lr against its gradient's sign, less decay."""
    weight = torch.nn.Parameter(torch.ones(2, 2))
    model = torch.nn.Module()
    model.weight = weight
    optimizer = AdamW(model, OptimConfig(lr=1.0, weight_decay=0.1, epsilon=1e-12))
    optimizer.set_rate(0.01)
    weight.grad = torch.tensor([[2.0, -3.0], [0.5, -0.1]])
    optimizer.step()
    expected = 1 - 0.01 * 0.1 - 0.01 * torch.sign(weight.grad)
    torch.testing.assert_close(weight.detach(), expected)
