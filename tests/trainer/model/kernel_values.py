"""Values of the Triton kernels, on a GPU or in Triton's interpreter; see test_triton_kernels.py."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.model.pointwise_inputs import LENGTH, SHAPES, Shape, draw
from trainer.config import OptimConfig
from trainer.model import pointwise, triton_kernels
from trainer.model.adamw_update import plain_adamw
from trainer.model.loss import chunk_gradient
from trainer.model.rotary import rotary_table

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("shape", SHAPES)
def test_values(shape: Shape) -> None:
    heads, kv_heads, width = shape
    gate_up, dhidden = draw(3, 5, 48), draw(3, 5, 24, seed=1)
    cos, sin = (table[:LENGTH] for table in rotary_table(LENGTH + 2, width, 1e4))
    qkv = draw(2, LENGTH, heads + 2 * kv_heads, width)
    parts = [draw(2, n, LENGTH, width, seed=n) for n in (heads, kv_heads, kv_heads)]
    gradients = [part.transpose(1, 2) for part in parts]
    for name, inputs in (
        ("swiglu", (gate_up,)),
        ("swiglu_backward", (dhidden, gate_up)),
        ("embed", (draw(9, 24), torch.tensor([[1, 8, 1], [0, 3, 1]]), torch.float32)),
        ("embed_backward", (draw(2, 3, 24), torch.tensor([[1, 8, 1], [0, 3, 1]]), 9)),
        ("rotary", (qkv, cos, sin, kv_heads)),
        ("rotary_backward", (*gradients, cos, sin)),
    ):
        there = (x.to(DEVICE) if isinstance(x, torch.Tensor) else x for x in inputs)
        own = getattr(triton_kernels, name)(*there)
        torch.testing.assert_close(own.cpu(), getattr(pointwise, f"_{name}_cpu")(*inputs))


@pytest.mark.parametrize("programs", [1, 3, 100])
@pytest.mark.parametrize("width", [24, 1100])
@pytest.mark.parametrize("branch_dtype", [torch.float32, torch.float64])
def test_norms(
    branch_dtype: torch.dtype,
    width: int,
    programs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that several programs share, and with a branch of another dtype than the sum."""
    constants = {"NORM_TILE": 64, "NORM_WARP": 4096, "NORM_WARPS": programs, "SUM_ROWS": 4}
    for name, value in constants.items():  # a program is one warp
        monkeypatch.setattr(triton_kernels, name, value)
    x, branch, dtotal, dnormed = (draw(3, 5, width, seed=n) for n in range(4))
    weight = draw(width, seed=4)
    inputs = [x, branch.to(branch_dtype), weight, 1e-5, torch.float32]
    expected = pointwise._add_norm_cpu(*inputs)
    compare(triton_kernels.add_norm, inputs, expected)
    for dsum in (dtotal, None):  # None: nothing else used the sum
        inputs = [dsum, dnormed, expected[0], expected[2], weight, branch_dtype]
        gradients = pointwise._add_norm_backward_cpu(*inputs)
        compare(triton_kernels.add_norm_backward, inputs, gradients)


def compare(
    kernel: Callable[..., tuple[Tensor, ...]], inputs: list[Any], expected: tuple[Tensor, ...]
) -> None:
    found = kernel(*(x.to(DEVICE) if isinstance(x, Tensor) else x for x in inputs))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.cpu(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("vocabulary", "padded"), [(5, 5), (258, 320), (9000, 9024)])
def test_gradient_of_the_loss(vocabulary: int, padded: int) -> None:
    """Also with large logits, and where a row needs several blocks; padding has no gradient."""
    logits = 30 * draw(6, padded)
    targets = torch.tensor([0, 1, 2, 3, 4, vocabulary - 1])[:, None]
    expected = chunk_gradient(logits, targets, vocabulary, 7)
    inputs = [logits, targets, vocabulary, 7]
    compare(triton_kernels.chunk_gradient, inputs, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 100])
def test_adamw(step: int, dtype: torch.dtype) -> None:
    config = OptimConfig(lr=0.1, beta1=0.9, beta2=0.9999, epsilon=1e-3)
    weight, mean, gradient = (draw(40, 52, seed=n) for n in (1, 2, 3))
    square, gradient = draw(40, 52, seed=4).square(), gradient.to(dtype)
    biases = [1 - beta**step for beta in (0.9, 0.9999)]
    factors = torch.tensor([0.02, 3.0, *biases])
    there = [x.to(DEVICE, copy=True) for x in (weight, gradient, mean, square, gradient.bfloat16())]
    triton_kernels.adamw(*there, factors.to(DEVICE), config, decay=0.3)
    count = torch.tensor(float(step))
    plain_adamw(weight, gradient.float() / 3, mean, square, count, 0.02, config, 0.3)
    for own, expected in zip(there, (weight, gradient, mean, square), strict=False):
        torch.testing.assert_close(own.cpu(), expected)
    # Triton's interpreter truncates to bf16; `test_code` sees that a GPU rounds to the nearest.
    step_of_bf16 = 2**-7 if DEVICE == "cpu" else 0.0
    expected = there[0] if DEVICE == "cpu" else there[0].bfloat16().float()
    torch.testing.assert_close(there[4].float(), expected, rtol=step_of_bf16, atol=0)
