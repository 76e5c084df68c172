"""The validation loss is the mean over all tokens, whatever the ranks and the batches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.execution.choices import Dtype
from trainer.loop import evaluate
from trainer.loop.evaluate import validation_loss
from trainer.world import World

WINDOWS = np.arange(35, dtype=np.uint16).reshape(7, 5) ** 2
"""Seven windows of four inputs, whose targets are the squares of 1 to 34 without every fifth."""


class TargetsAsLoss(nn.Module):
    """A model whose loss at a token is the target, in fp32."""

    passes = 0

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        assert inputs.shape == targets.shape
        self.passes += 1
        return targets.float().mean()


@pytest.mark.parametrize("batch_size", [1, 2, 7, 8])
@pytest.mark.parametrize(("ranks", "tp_size"), [(1, 1), (2, 1), (3, 1), (10, 1), (4, 2)])
def test_the_mean_over_all_tokens(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, ranks: int, tp_size: int
) -> None:
    totals: list[Tensor] = []

    def evaluate_on(rank: int, combine: Callable[[Tensor], Tensor]) -> tuple[float, int]:
        monkeypatch.setattr(evaluate, "sum_over_ranks", lambda own, world: combine(own))
        world = World(rank, ranks, rank, ranks, torch.device("cpu"), tp_size)
        model = TargetsAsLoss()
        found = validation_loss(model, WINDOWS, batch_size, "fp32", world)
        assert model.training
        # ranks that have run out take part in the passes of the others
        assert model.passes == -(-7 // (batch_size * ranks // tp_size))
        return found

    def keep(own: Tensor) -> Tensor:
        totals.append(own)
        return own.clamp(min=1)  # a rank without a window has no mean of its own

    for rank in range(ranks):
        evaluate_on(rank, keep)
    loss, tokens = evaluate_on(0, lambda _: torch.stack(totals).sum(0))
    assert tokens == 28
    assert loss == pytest.approx(WINDOWS[:, 1:].mean(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_matmuls_are_in_the_dtype_of_the_run(dtype: Dtype, expected: torch.dtype) -> None:
    found = []

    class Multiplies(nn.Module):
        def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
            product = inputs.float() @ targets.float().T
            found.append(product.dtype)
            return product.mean().float()

    alone = World(0, 1, 0, 1, torch.device("cpu"))
    validation_loss(Multiplies(), WINDOWS, 7, dtype, alone)
    assert found == [expected]
