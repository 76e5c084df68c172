import pytest
import torch
import torch.nn.functional as F

from trainer.config import ModelConfig
from trainer.model.loss import chunk_gradient, mean_loss, pad_rows
from trainer.model.model import Transformer


@pytest.mark.parametrize("chunk", [1, 7, 24, 1000])
def test_chunks_change_neither_loss_nor_gradients(chunk: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 12, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (2, 12), generator=generator)
    results = []
    for chunked in (False, True):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if chunked:
            loss = mean_loss(a, b, targets, chunk)
        else:
            loss = F.cross_entropy((a @ b.t()).flatten(0, 1), targets.flatten())
        (3 * loss).backward()
        results.append((loss.detach(), a.grad, b.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(mean_loss(x, weight, targets, chunk), results[0][0])


def gradients_in_bf16(
    scale: float, chunk: int, weight_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of x and W of a scaled loss in bf16, and W's in float64, unscaled."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 64, generator=generator).to(torch.bfloat16)
    weight = (torch.randn(500, 64, generator=generator) / 8).to(torch.bfloat16)
    targets = torch.randint(500, (512,), generator=generator)
    exact = weight.double().requires_grad_()
    F.cross_entropy(x.double() @ exact.t(), targets).backward()
    a, b = x.clone().requires_grad_(), weight.to(weight_dtype).requires_grad_()
    (scale * mean_loss(a, b, targets, chunk)).backward()
    assert (a.grad.dtype, b.grad.dtype) == (torch.bfloat16, weight_dtype)
    return a.grad.double(), b.grad.double(), exact.grad


@pytest.mark.parametrize("passes", [3, 5, 7])
def test_gradients_of_a_share_of_the_loss_are_that_share(passes: int) -> None:
    """Gradient accumulation scales the loss; 1/3 in bf16 is 0.2% off, in every number alike."""
    whole, share = (gradients_in_bf16(scale, 64, torch.float32) for scale in (1.0, 1 / passes))
    for one, other in zip(whole[:2], share[:2], strict=True):
        ratio = (one * other).sum() / (one * one).sum()
        assert ratio * passes == pytest.approx(1, abs=3e-4)


def test_chunks_do_not_add_to_the_rounding_of_a_bf16_weight() -> None:
    """As under FSDP2, which gathers weights in bf16."""
    errors = []
    for chunk in (512, 4):
        _, found, exact = gradients_in_bf16(1.0, chunk, torch.bfloat16)
        errors.append((found - exact).norm() / exact.norm())
    assert errors[1] < 1.5 * errors[0]


def test_a_loss_without_gradients_is_that_of_training() -> None:
    """In bf16, whose logits are summed in fp32: a sum in bf16 is up to 0.4% off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 64, generator=generator)
    weight = torch.randn(500, 64, generator=generator) / 8
    targets = torch.randint(500, (512,), generator=generator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = mean_loss(x, weight, targets, 100)
        with torch.no_grad():
            evaluated = mean_loss(x, weight, targets, 100)
    assert trained.dtype == evaluated.dtype == torch.float32
    assert evaluated.item() == pytest.approx(trained.item(), rel=1e-5)


@pytest.mark.parametrize(("rows", "padded"), [(50, 64), (64, 64), (65, 128)])
def test_rows_of_zeros_are_appended_to_the_next_multiple(rows: int, padded: int) -> None:
    found = pad_rows(torch.ones(rows, 3), 64)
    assert found.shape == (padded, 3)
    assert found.sum() == found[:rows].sum() == 3 * rows


@pytest.mark.parametrize("tied", [False, True])
def test_training_is_the_same_with_chunks(tied: bool) -> None:
    config = ModelConfig(dim=32, n_layers=1, n_heads=2, weight_tying=tied)
    tokens = torch.randint(258, (2, 33), generator=torch.Generator().manual_seed(0))
    gradients = []
    for chunk in (0, 10):
        model = Transformer(config, 258, 32, loss_chunk=chunk)
        model.init_weights(0)
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
def test_padding_and_compilation_change_no_chunk(compiled: bool) -> None:
    """50 ids, padded to 64 rows."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(24, 16, generator=generator)
    weight = torch.randn(50, 16, generator=generator)
    targets = torch.randint(50, (24,), generator=generator)
    gradient = torch.compile(chunk_gradient, dynamic=False) if compiled else chunk_gradient
    results = []
    for multiple, function in ((1, chunk_gradient), (64, gradient)):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = mean_loss(a, b, targets, 10, multiple, function)
        loss.backward()
        results.append((loss.detach(), a.grad, b.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of torch.compile, which hides it
def test_padding_and_compilation_change_no_loss() -> None:
    """Final norm, output matrix and loss as a GPU computes them: compiled, with 320 rows."""
    config = ModelConfig(dim=32, n_layers=1, n_heads=2)
    tokens = torch.randint(258, (2, 17), generator=torch.Generator().manual_seed(2))
    found = []
    for compiled in (False, True):
        model = Transformer(config, 258, 16, output_multiple=64 if compiled else 1)
        model.init_weights(0)
        if compiled:
            model.compile_loss(dynamic=False)
        loss = model(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
