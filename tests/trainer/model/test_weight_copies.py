"""Training with bf16 copies of the weights is training without them, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config import ModelConfig, OptimConfig
from trainer.execution.choices import Choices
from trainer.execution.kernels import use
from trainer.execution.precision import precision
from trainer.model.adamw import AdamW
from trainer.model.linear import Linear
from trainer.model.model import Transformer
from trainer.model.weight_copies import keep_copies

SHAPE = ModelConfig(dim=32, n_layers=2, n_heads=2, multiple_of=32)
TOKENS = torch.randint(258, (2, 3, 17), generator=torch.Generator().manual_seed(1))
"""Micro-batches of a step."""


def train(
    take_gradients: bool | None, micro_batches: int = 1, compiles: bool = False, **changes: Any
) -> tuple[list[float], Transformer, AdamW]:
    """Return losses, model and optimizer after three steps in bf16; None: without copies."""
    model = Transformer(SHAPE, 258, 16)
    model.init_weights(0)
    optimizer = AdamW(model, OptimConfig(lr=0.01, clip=None, fused=False, **changes))
    if take_gradients is not None:
        optimizer.use_copies(keep_copies(model.layers, take_gradients))
    use(Choices("bf16", compiles, True, 0, "torch", 1, "torch", fused_pointwise=compiles), model)
    if compiles:
        for layer in model.layers:
            layer.compile(dynamic=False)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        for tokens in TOKENS[:micro_batches]:
            with precision("bf16", torch.device("cpu")):
                loss = model(tokens[:, :-1], tokens[:, 1:]) / micro_batches
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
    return losses, model, optimizer


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch.compile's own
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize(("take_gradients", "micro_batches"), [(True, 1), (False, 1), (False, 2)])
def test_losses_weights_and_moments(
    take_gradients: bool, micro_batches: int, compiles: bool
) -> None:
    own, model, optimizer = train(take_gradients, micro_batches, compiles)
    reference, other, of_other = train(None, micro_batches, compiles)
    assert own == reference
    assert_equal(model.state_dict(), other.state_dict())
    for state, others in zip(
        optimizer.state_dict()["state"].values(),
        of_other.state_dict()["state"].values(),
        strict=True,
    ):
        assert_equal(state, others)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("take_gradients", [False, True])
def test_the_blocks_have_copies_and_nothing_else(take_gradients: bool) -> None:
    _, model, _ = train(take_gradients)
    copied = {
        name for name, m in model.named_modules() if isinstance(m, Linear) and m.copy is not None
    }
    blocks = {f"layers.{layer}.{part}" for layer in (0, 1) for part in PARTS}
    assert copied == blocks
    for name in blocks:
        module = model.get_submodule(name)
        assert module.copy.dtype == torch.bfloat16
        assert torch.equal(module.copy, module.weight.bfloat16())
        assert (module.weight.grad is None) is take_gradients
    assert not [name for name in model.state_dict() if "copy" in name]


PARTS = ("attention.wqkv", "attention.wo", "feed_forward.w13", "feed_forward.w2")


@pytest.mark.parametrize("take_gradients", [False, True])
def test_the_norm_of_all_gradients(take_gradients: bool) -> None:
    _, model, optimizer = train(take_gradients)
    found = optimizer.grad_norm()
    gradients = [
        module.copy.grad
        if isinstance(module, Linear) and take_gradients and module.copy is not None
        else parameter.grad
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
    ]
    assert all(gradient is not None for gradient in gradients)
    flat = torch.cat([gradient.double().flatten() for gradient in gradients])
    torch.testing.assert_close(found.double(), flat.norm(), rtol=1e-5, atol=0)
    optimizer.zero_grad()
    leaves = [*model.parameters(), *(m.copy for m in model.modules() if isinstance(m, Linear))]
    assert all(leaf is None or leaf.grad is None for leaf in leaves)


def test_clipping_divides_the_gradients_at_the_copies() -> None:
    """Steps of plain AdamW on the matrices, from gradients ten times too large."""
    results = []
    for take_gradients in (None, True):
        _, model, optimizer = train(take_gradients)
        optimizer._config = OptimConfig(lr=0.01, clip=1.0, fused=False)
        optimizer.step(torch.tensor(10.0))
        results.append(model.state_dict())
    assert_equal(*results)
