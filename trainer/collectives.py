"""Values that the processes of a run add up or agree on; a single process keeps its own."""

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.problems import ConfigError
from trainer.world import World

Value = TypeVar("Value")


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a tensor over all processes, on its device, without waiting for it."""
    if world.size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value / world.size


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return the sum of a CPU tensor over all processes, in place."""
    if world.size > 1:
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


class PendingSum:
    """A sum of CPU tensors over all processes, added up while training goes on.

    Every rank starts and receives it at the same steps.
    """

    def __init__(self) -> None:
        self._pending: tuple[dist.Work, Tensor] | None = None

    def start(self, values: Tensor) -> None:
        """Contribute this process's values, which become the sum in place."""
        work = dist.all_reduce(values, op=dist.ReduceOp.SUM, async_op=True)
        assert work is not None
        self._pending = work, values

    def receive(self) -> Tensor | None:
        """Wait for the sum and return it; None if none was started since the last call."""
        if self._pending is None:
            return None
        work, values = self._pending
        self._pending = None
        work.wait()
        return values


def share(value: Value, world: World) -> Value:
    """Return rank 0's value, a small object, on every rank."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def share_tensors(tensors: Iterable[Tensor], world: World) -> None:
    """Give rank 0's values to tensors of all ranks, in place, on any device."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def found_by_main(find: Callable[[], Value], world: World) -> Value:
    """Return what rank 0 finds, not None, on every rank; the others do not look.

    Raises ConfigError on rank 0; the others exit with code 1.
    """
    found, refusal = None, None
    if world.is_main:
        try:
            found = find()
        except ConfigError as error:
            refusal = error
    found = share(found, world)
    if refusal is not None:
        raise refusal
    if found is None:
        sys.exit(1)  # rank 0 says why
    return found


def barrier(world: World) -> None:
    """Wait for every rank."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU: dist.barrier would take the GPU
