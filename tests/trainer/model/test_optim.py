import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.operations import Launched
from trainer.config import ModelConfig, OptimConfig
from trainer.flops import count_parameters
from trainer.model import muon
from trainer.model.adamw import AdamW
from trainer.model.learning_rate import learning_rate
from trainer.model.linear import parts_of
from trainer.model.model import Transformer
from trainer.model.muon import orthogonalise
from trainer.model.optimizer import build_optimizer
from trainer.model.optimizers import optimizer_costs

MATRIX = torch.Generator().manual_seed(3)
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
        ({"scheduler": "inv_sqrt", "warmup": 20, "exp_factor": 1.0}, 80, 0.25),
        # Stable up to step 80; half of the decay: 1 / (0.5 / 0.1 + 0.5); all of it.
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 80, 1.0),
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 90, 1 / 5.5),
        ({"scheduler": "wsd", "warmup": 20, "decay_fraction": 0.2}, 100, 0.1),
        # Decays in steps 41 to 50 and 81 to 100, each a fifth of the steps so far.
        ({"scheduler": "wsd", "cycle_length": 0.5, "decay_fraction": 0.2}, 45, 1 / 5.5),
        ({"scheduler": "wsd", "cycle_length": 0.5, "decay_fraction": 0.2}, 50, 0.1),
        ({"scheduler": "wsd", "cycle_length": 0.5, "decay_fraction": 0.2}, 51, 1.0),
        ({"scheduler": "wsd", "cycle_length": 0.5, "decay_fraction": 0.2}, 90, 1 / 5.5),
        # The last cycle is cut short: its decay, too, ends with the run.
        ({"scheduler": "wsd", "cycle_length": 0.4, "decay_fraction": 0.1}, 90, 1.0),
        ({"scheduler": "wsd", "cycle_length": 0.4, "decay_fraction": 0.1}, 95, 1 / 5.5),
        ({"scheduler": "wsd", "cycle_length": 0.4, "decay_fraction": 0.1}, 100, 0.1),
        # Three steps are left of four cycles of 24: no step at the full rate after the decay.
        ({"scheduler": "wsd", "cycle_length": 0.24, "decay_fraction": 0.2}, 97, 1 / 8.65),
        # Half a step of decay is none, and one and a half are one.
        ({"scheduler": "wsd", "decay_fraction": 0.005}, 100, 1.0),
        ({"scheduler": "wsd", "decay_fraction": 0.015}, 99, 1.0),
        # Two cosines of 50 steps: the middle and the end of each.
        ({"cycle_length": 0.5}, 25, 0.55),
        ({"cycle_length": 0.5}, 50, 0.1),
        ({"cycle_length": 0.5}, 75, 0.55),
        ({"cycle_length": 0.5}, 100, 0.1),
        # 29 steps, although 0.29 * 100 is less in float64: ends of a cycle, the first of a decay.
        ({"cycle_length": 0.29}, 29, 0.1),
        ({"scheduler": "wsd", "cycle_length": 0.29}, 29, 0.1),
        ({"scheduler": "wsd", "decay_fraction": 0.29}, 72, 29 / 38),
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


def test_the_state_holds_the_moments_by_their_names() -> None:
    """Checkpoints of other versions have them under these names."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = AdamW(model, OptimConfig(beta1=0.75, beta2=0.875))
    model.weight.grad = torch.tensor([2.0, -4.0])
    optimizer.step()
    state = optimizer.state_dict()["state"]["weight"]
    found = {name: tensor.tolist() for name, tensor in state.items()}
    assert found == {"step": 1, "exp_avg": [0.5, -1.0], "exp_avg_sq": [0.5, 2.0]}


@pytest.mark.parametrize("fused", [False, True])
def test_a_weight_without_a_gradient_is_an_error(fused: bool) -> None:
    """The others must not take one another's."""
    model = torch.nn.Module()
    model.first, model.second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = AdamW(model, OptimConfig(fused=fused))
    model.second.grad = torch.ones(2)
    with pytest.raises(AssertionError, match="a weight has no gradient"):
        optimizer.step()


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_those_of_torchs_adamw(fused: bool, clip: float | None) -> None:
    """Bit for bit with the same kernel, if gradients are not clipped."""
    ours, other = (Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2), 258, 8) for _ in "ab")
    for model in (ours, other):
        model.init_weights(0)
    settings = {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "epsilon": 1e-3, "weight_decay": 0.3}
    optimizer = AdamW(ours, OptimConfig(**settings, clip=clip, fused=fused))
    decayed, rest = (
        [p for p in other.parameters() if (p.ndim == 2) is kind] for kind in (True, False)
    )
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, 0.01, (0.8, 0.9), 1e-3, weight_decay=0.3, fused=True)
    for rate in (0.01, 0.03, 0.02):
        for one, same in zip(ours.parameters(), other.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=MATRIX)
            same.grad = one.grad.clone()
        optimizer.set_rate(rate)
        for group in theirs.param_groups:
            group["lr"] = rate
        optimizer.step(optimizer.grad_norm())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(other.parameters(), clip)
        theirs.step()
    exact = fused and clip is None
    for one, same in zip(ours.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, same, rtol=0, atol=0 if exact else 2e-6)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("rate", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
def test_the_bias_of_slow_moments_is_corrected(fused: bool, rate: float | torch.Tensor) -> None:
    """With a constant gradient, every step of Adam moves a weight by lr, whatever the betas."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.zeros(2, 2))
    settings = {"beta1": 0.999, "beta2": 0.9999, "weight_decay": 0.0, "epsilon": 1e-12}
    optimizer = AdamW(model, OptimConfig(lr=1.0, fused=fused, **settings))
    optimizer.rate = rate
    gradient = torch.tensor([[2.0, -3.0], [0.5, -0.1]])
    for step in range(1, 4):
        model.weight.grad = gradient.clone()
        optimizer.step()
        expected = -0.01 * step * torch.sign(gradient)
        torch.testing.assert_close(model.weight.detach(), expected, rtol=3e-6, atol=0)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_rate_on_the_device_is_the_same_rate(name: str) -> None:
    """As the replays of a CUDA graph read it."""
    models = [Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2), 258, 8) for _ in range(2)]
    optimizers = []
    for model in models:
        model.init_weights(0)
        optimizers.append(build_optimizer(model, OptimConfig(name=name, lr=0.1)))
    optimizers[1].rate = torch.tensor(0.1)
    for rate in (0.01, 0.03, 0.0):
        gradients = [torch.randn(p.shape, generator=MATRIX) for p in models[0].parameters()]
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.set_rate(rate)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step(optimizer.grad_norm())
    assert isinstance(optimizers[1].rate, torch.Tensor)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(12, 12), (12, 40), (40, 12)])
def test_orthogonalising_keeps_the_singular_vectors(rows: int, columns: int) -> None:
    noise = torch.randn((3, rows, columns), generator=MATRIX, dtype=torch.float64)
    left, _, right = torch.linalg.svd(noise, full_matrices=False)
    values = torch.linspace(0.1, 1.0, min(rows, columns), dtype=torch.float64)
    found = left.mT @ orthogonalise(left @ torch.diag(values) @ right) @ right.mT
    diagonal = torch.diagonal(found, dim1=-2, dim2=-1)
    assert ((diagonal > 0.65) & (diagonal < 1.25)).all()
    torch.testing.assert_close(found, torch.diag_embed(diagonal))


@pytest.mark.parametrize("fused", [False, True])
def test_muon_is_torchs_within_its_bf16(fused: bool) -> None:
    """torch's iteration is in bf16 everywhere, ours in fp32 on a CPU."""
    shape = ModelConfig(dim=64, n_layers=2, n_heads=2, multiple_of=32)
    ours, other = (Transformer(shape, 258, 16, fused=kind) for kind in (fused, False))
    for model in (ours, other):
        model.init_weights(0)
    config = OptimConfig(name="muon", lr=0.01, clip=0.5)
    optimizer = build_optimizer(ours, config)
    matrices = [p for name, p in other.named_parameters() if _is_of_muon(name, p)]
    rest = [p for name, p in other.named_parameters() if not _is_of_muon(name, p)]
    theirs = torch.optim.Muon(matrices, lr=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW(other, config, [n for n, p in other.named_parameters() if not _is_of_muon(n, p)])
    parameters, parts = dict(ours.named_parameters()), parts_of(ours)
    for rate in (0.01, 0.02, 0.005):
        optimizer.set_rate(rate)
        theirs.param_groups[0]["lr"] = rate
        adamw.set_rate(rate)
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        for name, parameter in other.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=MATRIX)
            owner, rows = parts[name]
            parameters[owner].grad[rows] = parameter.grad
        optimizer.step(optimizer.grad_norm())
        torch.nn.utils.clip_grad_norm_([*matrices, *rest], 0.5)
        theirs.step()
        adamw.step()
    found = ours.state_dict()
    for name, parameter in other.named_parameters():
        worst = 1e-3 if _is_of_muon(name, parameter) else 1e-6
        torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=worst)


def test_muon_on_a_cpu_is_exact_to_fp32() -> None:
    """Two steps of Jordan et al. 2024 with the size of Liu et al. 2025, in float64."""
    model = Transformer(
        ModelConfig(dim=32, n_layers=1, n_heads=2, multiple_of=48), 258, 8, fused=False
    )
    model.init_weights(0)
    settings = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3, "clip": None}
    optimizer = build_optimizer(model, OptimConfig(name="muon", **settings))
    named = [(name, p) for name, p in model.named_parameters() if _is_of_muon(name, p)]
    expected = {name: parameter.detach().double() for name, parameter in named}
    momenta = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    for _ in range(2):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=MATRIX)
        optimizer.step()
        for name, parameter in named:
            gradient = parameter.grad.double()
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            x = 0.1 * gradient + 0.9 * momenta[name]
            x /= x.norm()
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
            size = 0.2 * max(x.shape) ** 0.5
            expected[name] = (1 - 0.02 * 0.3) * expected[name] - 0.02 * size * x
    for name, parameter in named:
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_muon_updates_each_matrix_once_however_many_fit(
    monkeypatch: pytest.MonkeyPatch, at_a_time: int
) -> None:
    """Also a matrix that is larger than what is orthogonalised together, and more matrices of a
    shape than they have rows: four in each of five layers."""
    weights = []
    for elements in (muon.STACKED, at_a_time * 16 * 16 if at_a_time > 1 else 1):
        monkeypatch.setattr(muon, "STACKED", elements)
        model = Transformer(ModelConfig(dim=16, n_layers=5, n_heads=2, multiple_of=16), 258, 8)
        model.init_weights(0)
        optimizer = build_optimizer(model, OptimConfig(name="muon", lr=0.1))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=0, atol=1e-6)


def test_muons_momentum_takes_clipped_gradients() -> None:
    """A norm of 10 is clipped to 0.5: the momentum takes 5% of a twentieth of each gradient."""
    model = Transformer(ModelConfig(dim=32, n_layers=1, n_heads=2), 258, 8)
    model.init_weights(0)
    optimizer = build_optimizer(model, OptimConfig(name="muon", clip=0.5, momentum=0.95))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step(torch.tensor(10.0))
    momentum = optimizer.state_dict()["state"]["layers.0.attention.wo.weight"]["momentum"]
    torch.testing.assert_close(momentum, torch.full_like(momentum, 0.05 / 20))


def test_a_matrix_without_a_direction_stays() -> None:
    assert not orthogonalise(torch.zeros(2, 3, 4)).any()


def _is_of_muon(name: str, parameter: torch.Tensor) -> bool:
    return name.startswith("layers.") and parameter.ndim == 2


def test_muon_launches_as_much_for_many_layers_as_for_few() -> None:
    counts = []
    for layers in (2, 6):
        model = Transformer(ModelConfig(dim=32, n_layers=layers, n_heads=2), 258, 8, fused=True)
        model.init_weights(0)
        optimizer = build_optimizer(model, OptimConfig(name="muon"))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        with Launched() as operations:
            optimizer.step(optimizer.grad_norm())
        counts.append(sum(operations.counts.values()))
    assert counts[0] == counts[1]


def test_muon_takes_adamws_step_in_size() -> None:
    """Each update has the RMS of 0.2 lr that AdamW's usually have, whatever the shape."""
    model = Transformer(ModelConfig(dim=64, n_layers=1, n_heads=2, multiple_of=32), 258, 8)
    model.init_weights(0)
    optimizer = build_optimizer(model, OptimConfig(name="muon", lr=0.01, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=MATRIX)
    optimizer.step()
    for name, parameter in model.named_parameters():
        if _is_of_muon(name, parameter):
            change = (parameter.detach() - before[name]).square().mean().sqrt()
            assert change == pytest.approx(0.2 * 0.01, rel=0.25), name


def test_bytes_of_adamw_by_hand() -> None:
    """Weight, gradient and two moments of 4 bytes each: all are read, all but the gradient are
    written, and a checkpoint has no gradient."""
    costs = optimizer_costs("adamw", ModelConfig(dim=32, n_layers=1, n_heads=2), 258)
    assert (costs.memory_bytes, costs.checkpoint_bytes) == (16, 12)
    assert costs.traffic_bytes == 16 + 12


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 1}, {"weight_tying": True}], ids=str)
def test_costs_are_those_of_a_real_step(name: str, changes: dict[str, Any]) -> None:
    """State counted in the state dict, FLOPs by torch's counter."""
    shape = ModelConfig.model_validate({"dim": 64, "n_layers": 2, "n_heads": 4, **changes})
    model = Transformer(shape, 258, 16)
    model.init_weights(0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer = build_optimizer(model, OptimConfig(name=name))
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    costs = optimizer_costs(name, shape, 258)
    params = count_parameters(shape, 258).total
    assert counter.get_total_flops() == pytest.approx(costs.flops * params)
    state = [
        tensor
        for tensors in optimizer.state_dict()["state"].values()
        for key, tensor in tensors.items()
        if key != "step"
    ]
    assert sum(t.numel() * t.element_size() for t in state) == pytest.approx(
        costs.state_bytes * params
    )
