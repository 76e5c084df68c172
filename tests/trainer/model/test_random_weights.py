import pytest
import torch

from trainer.model.random_weights import draw_truncated


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
