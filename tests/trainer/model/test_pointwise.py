"""SwiGLU, rotary embedding, and sum with norm as kernels, against torch's own derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.model.pointwise_inputs import LENGTH, SHAPES, Shape, draw
from trainer.config import ModelConfig
from trainer.execution.choices import Choices
from trainer.execution.kernels import use
from trainer.model import pointwise
from trainer.model.model import Transformer
from trainer.model.rotary import rotary_table, rotate

EPSILON = 0.1
"""Of norms: large, so that it shows."""


def rotated_apart(qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int) -> tuple[Tensor, ...]:
    heads = qkv.shape[2] - 2 * kv_heads
    q, k, v = qkv.split((heads, kv_heads, kv_heads), dim=2)
    return rotate(q, cos, sin), rotate(k, cos, sin), v


def test_swiglu_and_its_gradient() -> None:
    gate_up, dhidden = draw(3, 5, 48), draw(3, 5, 24, seed=1)
    own, book = gate_up.clone().requires_grad_(), gate_up.clone().requires_grad_()
    gate, up = book.chunk(2, dim=-1)
    (F.silu(gate) * up).backward(dhidden)
    pointwise.swiglu(own).backward(dhidden)
    torch.testing.assert_close(own.grad, book.grad)


def test_the_norm_alone_has_a_gradient() -> None:
    """As before the output matrix: nothing else uses the sum."""
    x, branch, dnormed = (draw(3, 5, 24, seed=n) for n in range(3))
    own, book = (x.clone().requires_grad_() for _ in "ab")
    weight = torch.ones(24)
    pointwise.add_norm(own, branch, weight, EPSILON, torch.float32)[1].backward(dnormed)
    F.rms_norm(book + branch, (24,), weight, EPSILON).backward(dnormed)
    torch.testing.assert_close(own.grad, book.grad)


@pytest.mark.parametrize("residual", [torch.float32, torch.bfloat16])
def test_sum_with_norm_and_its_gradient(residual: torch.dtype) -> None:
    """Beside a branch in bf16, against fp64; the sum is rounded before it is normalised."""
    x, weight = draw(3, 5, 24).to(residual), 1 + draw(24, seed=1)
    branch, dtotal, dnormed = (draw(3, 5, 24, seed=n).bfloat16() for n in (2, 3, 4))
    own = [x.clone(), branch.clone(), weight.clone()]
    book = [x.double(), branch.double(), weight.double()]
    for tensor in (*own, *book):
        tensor.requires_grad_()
    total, normed = pointwise.add_norm(*own, EPSILON, torch.bfloat16)
    exact = book[0] + book[1]
    rounded = exact + (exact.to(residual).double() - exact).detach()
    expected = F.rms_norm(rounded, (24,), book[2], EPSILON)
    assert (total.dtype, normed.dtype) == (residual, torch.bfloat16)
    torch.testing.assert_close(total.double(), exact.to(residual).double())
    torch.testing.assert_close(normed.double(), expected, rtol=2**-8, atol=1e-6)
    (total * dtotal.to(residual)).sum().add((normed * dnormed).sum()).backward()
    (rounded * dtotal).sum().add((expected * dnormed).sum()).backward()
    for one, other in zip(own, book, strict=True):
        assert one.grad is not None and one.grad.dtype == one.dtype
        precise = one.dtype == torch.float32
        tolerance = 1e-5 if precise else 2**-7
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("shape", SHAPES)
def test_rotation_and_its_gradient(shape: Shape) -> None:
    heads, kv_heads, width = shape
    cos, sin = (table[:LENGTH] for table in rotary_table(LENGTH + 2, width, 1e4))
    qkv = draw(2, LENGTH, heads + 2 * kv_heads, width)
    own, book = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    results = pointwise.rotary(own, cos, sin, kv_heads)
    expected = rotated_apart(book, cos, sin, kv_heads)
    for index, (one, other) in enumerate(zip(results, expected, strict=True)):
        torch.testing.assert_close(one, other)
        # As attention returns them: heads before tokens in memory.
        gradient = draw(2, one.shape[2], LENGTH, width, seed=index).transpose(1, 2)
        one.backward(gradient, retain_graph=True)
        other.backward(gradient, retain_graph=True)
    torch.testing.assert_close(own.grad, book.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_with_them_is_the_same(dtype: torch.dtype) -> None:
    """Against fp32 without them: equal in fp32, within bf16's noise in bf16."""
    config = ModelConfig(dim=64, n_layers=2, n_heads=4, n_kv_heads=2, multiple_of=32)
    tokens = torch.randint(258, (2, 33), generator=torch.Generator().manual_seed(0))
    found = []
    for fused, narrow in ((False, False), (True, dtype == torch.bfloat16)):
        model = Transformer(
            config,
            258,
            32,
            residual_dtype=torch.bfloat16 if narrow else None,
            output_multiple=64 if fused else 1,
        )
        model.init_weights(0)
        use(Choices("fp32", False, True, 0, "mkl", 1, "torch", fused_pointwise=fused), model)
        assert model.embed(tokens).dtype == (torch.bfloat16 if narrow else torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        shapes = {name: value.shape for name, value in model.state_dict().items()}
        found.append((loss.detach(), shapes, [p.grad for p in model.parameters()]))
    (loss, shapes, gradients), (own_loss, own_shapes, own_gradients) = found
    assert own_shapes == shapes, "padding is not in the checkpoint"
    noise = 1e-5 if dtype == torch.float32 else 2e-2
    assert own_loss.item() == pytest.approx(loss.item(), abs=noise)
    for own, other in zip(own_gradients, gradients, strict=True):
        assert own is not None and other is not None
        assert (own - other).norm() <= 5 * noise * other.norm()
