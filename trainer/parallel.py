"""The processes of one run: who they are, how they talk, and how the model is spread over them.

Everything is read from the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE). Nothing of Slurm's is read: inside a job step SLURM_PROCID and SLURM_NTASKS
describe the step, not the ranks that torchrun started in it.
"""

import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.config import DistributedConfig

GROUP_TIMEOUT = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process and its peers."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def nodes(self) -> int:
        """Machines that the processes are on."""
        return self.size // self.local_size


def get_world() -> World:
    """Return this process's place, from torchrun's variables; alone where there are none."""
    rank, size, local_rank, local_size = (
        int(os.environ.get(name, default))
        for name, default in (
            ("RANK", 0),
            ("WORLD_SIZE", 1),
            ("LOCAL_RANK", 0),
            ("LOCAL_WORLD_SIZE", 1),
        )
    )
    device = torch.device("cpu")
    # A machine with fewer GPUs than processes is a trial on the CPU, as all ranks must agree.
    if torch.cuda.is_available() and torch.cuda.device_count() >= local_size:
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    return World(rank, size, local_rank, local_size, device)


@contextlib.contextmanager
def process_group(world: World) -> Iterator[None]:
    """Hold the process group open; a lone process needs none."""
    if world.size == 1:
        yield
        return
    cuda = world.device.type == "cuda"
    dist.init_process_group(
        # The CPU half carries what must not wait for the GPU: stop requests, host names.
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        timeout=GROUP_TIMEOUT,
        device_id=world.device if cuda else None,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def wrap_model(model: nn.Module, world: World) -> nn.Module:
    """Return the module whose forward pass trains: the model itself, or DDP around it."""
    if world.size == 1:
        return model
    ids = [world.local_rank] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)


def compile_blocks(model: nn.Module) -> None:
    """Compile each block; equal blocks share one compilation."""
    for layer in model.layers:  # type: ignore[union-attr]
        layer.compile(dynamic=False)


def precision(config: DistributedConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context of the forward pass: bf16 products over fp32 master weights, or fp32."""
    if config.model_dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def synchronised(model: nn.Module, last_micro_step: bool) -> contextlib.AbstractContextManager:
    """Return the context of a micro step: gradients are reduced in the last one only."""
    if isinstance(model, DistributedDataParallel) and not last_micro_step:
        return model.no_sync()
    return contextlib.nullcontext()


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a scalar over all processes, on its device and without waiting for it."""
    if world.size > 1:
        dist.all_reduce(value, op=dist.ReduceOp.SUM)
        value = value / world.size
    return value


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if world.size > 1:
        dist.all_reduce(values, op=dist.ReduceOp.SUM)
    return values


def agree(value: int, world: World) -> int:
    """Return rank 0's value on every rank: a decision taken once."""
    if world.size == 1:
        return value
    box = torch.tensor([value], dtype=torch.int64)
    dist.broadcast(box, src=0)
    return int(box.item())


def barrier(world: World) -> None:
    """Wait for every rank."""
    agree(0, world)
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))


def gather_hosts(world: World) -> list[str]:
    """Return the host name of every rank's machine, each once, in rank order."""
    name = socket.gethostname()
    if world.size == 1:
        return [name]
    names: list[str] = [""] * world.size
    dist.all_gather_object(names, name)
    return list(dict.fromkeys(names))


class StopSignal:
    """SIGTERM and SIGUSR1 ask the run to save and leave; all ranks must leave at the same step.

    Each step every rank contributes its flag to a sum over the CPU group, which travels while the
    next step computes and is read one step later, so the GPU never waits for it.
    """

    def __init__(self, world: World) -> None:
        import signal

        self._world, self._flag = world, 0
        self._pending: tuple[dist.Work, Tensor] | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._flag = 1

    def agreed(self) -> bool:
        """Say whether any rank had been asked to stop a step ago; call it once in every step."""
        if self._world.size == 1:
            return bool(self._flag)
        stop = False
        if self._pending is not None:
            work, total = self._pending
            work.wait()
            stop = bool(total.item())
        total = torch.tensor([self._flag], dtype=torch.int32)
        work = dist.all_reduce(total, op=dist.ReduceOp.SUM, async_op=True)
        assert work is not None
        self._pending = (work, total)
        return stop

    def close(self) -> None:
        """Wait for the sum that is under way."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
