"""Clipping, and gradients that are DTensors, as those of weights spread over processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from trainer.model.gradients import WithGradients, clip_divisor, full, local, shard_like


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_a_partial_sum_becomes_a_gradient_like_its_weight(mesh: DeviceMesh) -> None:
    own = torch.tensor([3.0, 4.0])
    partial = DTensor.from_local(own, mesh, [Partial()])
    for placement in (Replicate(), Shard(0)):
        weight = DTensor.from_local(torch.zeros(2), mesh, [placement])
        gradient = shard_like(partial, weight)
        assert isinstance(gradient, DTensor) and gradient.placements == (placement,)
        assert type(local(gradient)) is type(full(gradient)) is torch.Tensor
        assert local(gradient).tolist() == full(gradient).tolist() == [3.0, 4.0]
    assert shard_like(own, torch.zeros(2)) is local(own) is full(own) is own


def test_the_norm_is_over_all_gradients_and_processes(mesh: DeviceMesh) -> None:
    """3, 4 and 12 make 13; a weight that was not used has no gradient."""
    weights = [DTensor.from_local(torch.zeros(2), mesh, [Shard(0)]) for _ in range(3)]
    for weight, values in zip(weights, ([3.0, 4.0], [12.0, 0.0]), strict=False):
        weight.grad = DTensor.from_local(torch.tensor(values), mesh, [Shard(0)])
    optimizer = WithGradients()
    optimizer.leaves = list(weights)
    norm = optimizer.grad_norm()
    assert type(norm) is torch.Tensor and norm.item() == 13
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in weights)


def test_the_norm_of_bf16_gradients_is_not_rounded_to_bf16() -> None:
    """The root of 3 * 67^2 + 4^2 is 116.11; of bf16, whose steps are 0.5 there, it is 116."""
    values = (torch.full((3,), 67.0, dtype=torch.bfloat16), torch.tensor([4.0]))
    optimizer = WithGradients()
    optimizer.leaves = [torch.zeros_like(value) for value in values]
    for leaf, value in zip(optimizer.leaves, values, strict=True):
        leaf.grad = value
    norm = optimizer.grad_norm()
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx((3 * 67**2 + 4**2) ** 0.5, rel=1e-6)


@pytest.mark.parametrize(
    ("norm", "clip", "expected"), [(0.5, 1.0, 1.0), (3.0, 1.5, 2.0), (1e-6, 1e-6, 2.0)]
)
def test_gradients_are_clipped_as_torch_clips_them(
    norm: float, clip: float, expected: float
) -> None:
    """Adam's and Muon's steps hardly show by what gradients were divided."""
    divisor = clip_divisor(torch.tensor(norm), clip)
    assert divisor is not None and divisor.item() == pytest.approx(expected, rel=1e-6)
    weight = torch.zeros(1, requires_grad=True)
    weight.grad = torch.tensor([norm])
    torch.nn.utils.clip_grad_norm_([weight], clip)
    assert weight.grad.item() == pytest.approx(norm / expected, rel=1e-6)
