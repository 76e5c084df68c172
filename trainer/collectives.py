"""Values that the processes of a run add up or agree on; a single process keeps its own."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
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
    with waiting_for_all(world):
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


@contextlib.contextmanager
def waiting_for_all(world: World) -> Iterator[None]:
    """Let each rank do what may take some of them longer than a collective may; all go on together.

    Meanwhile a thread of each rank tells the others that it is there. What the ranks do must not
    communicate.
    """
    if world.size == 1:
        yield
        return
    done, failed = threading.Event(), threading.Event()

    def tell() -> None:
        left = 1.0
        # If another rank has ended, the next collective will say so.
        with contextlib.suppress(RuntimeError):
            while left > 0:
                is_done = done.wait(world.timeout_s / 4)
                if failed.is_set():
                    return
                left = sum_over_ranks(torch.tensor(0.0 if is_done else 1.0), world).item()

    telling = threading.Thread(target=tell, name="waiting", daemon=True)
    telling.start()
    try:
        yield
    except BaseException:  # this rank ends and waits for no other
        failed.set()
        raise
    finally:
        done.set()
    telling.join()


def barrier(world: World) -> None:
    """Wait for every rank."""
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU: dist.barrier would take the GPU
