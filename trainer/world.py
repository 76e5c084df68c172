"""The processes of one run: their ranks, their devices, and the group that they form."""

import contextlib
import datetime
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.distributed as dist

from trainer import host
from trainer.config import Device
from trainer.gpu_state import describe_other
from trainer.problems import ConfigError
from trainer.ranks import Ranks, read_ranks


@dataclass(frozen=True)
class World(Ranks):
    """This process and its peers."""

    device: torch.device
    tp_size: int = 1
    """Neighbouring tensor-parallel processes, which train on the same samples."""
    timeout_s: float = 600.0
    """A collective that takes longer fails, so that a rank that hangs ends the run."""

    @property
    def timeout(self) -> datetime.timedelta:
        """`timeout_s`, as process groups take it."""
        return datetime.timedelta(seconds=self.timeout_s)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Index of this process's share of the samples."""
        return self.rank // self.tp_size

    @property
    def data_size(self) -> int:
        """Number of shares of the samples."""
        return self.size // self.tp_size

    @property
    def nodes(self) -> int:
        """Machines that the processes are on."""
        return self.size // self.local_size


def get_world(
    device: Device,
    gpu_name: str | None = None,
    tp_size: int = 1,
    timeout_s: float = World.timeout_s,
) -> World:
    """Return this process's rank, from torchrun's variables; a single process without them.

    Raises ConfigError if the machine lacks the device, has fewer GPUs than processes, or its GPUs
    do not match `gpu_name`.
    """
    ranks = read_ranks()
    found = torch.device("cpu")
    if device == "cuda":
        problem = find_missing_gpu(ranks.local_size, gpu_name)
        if problem is not None:
            raise ConfigError(f"run, on {socket.gethostname()}", [problem])
        found = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(found)
    return World(**vars(ranks), device=found, tp_size=tp_size, timeout_s=timeout_s)


def find_missing_gpu(needed: int, wanted: str | None) -> str | None:
    """Return the problem with `needed` processes on this machine's GPUs, or None."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "device = cuda: torch finds no GPU here; expected one, or device: cpu"
    if count < needed:
        return f"device = cuda: found {count} GPUs for {needed} processes; expected one each"
    for index in range(needed):
        problem = describe_other(torch.cuda.get_device_name(index), wanted)
        if problem is not None:
            return problem
    return None


def device_name(world: World) -> str:
    """Return the name of this process's GPU, or of the processor."""
    if world.device.type == "cuda":
        return torch.cuda.get_device_name(world.device)
    return host.processor_name()


def gpu_uuid(world: World) -> str | None:
    """Return the UUID of this process's GPU; None on a CPU."""
    if world.device.type == "cpu":
        return None
    return str(torch.cuda.get_device_properties(world.device).uuid)


@contextlib.contextmanager
def process_group(world: World) -> Iterator[Callable[[], None]]:
    """Hold the process group open; a single process needs none, and an open one is kept.

    The group is initialised in the background: call what this yields before the first collective.
    After a failure the group is not destroyed, since that waits for all ranks.
    """
    if world.size == 1 or dist.is_initialized():
        yield lambda: None
        return
    with ThreadPoolExecutor(1, "process_group") as pool:
        meeting = pool.submit(_meet, world)
        yield meeting.result
    dist.destroy_process_group()


def _meet(world: World) -> None:
    cuda = world.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(world.device)  # the current device is per thread
    dist.init_process_group(
        # gloo carries what must not wait for the GPU: stop requests, host names.
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        timeout=world.timeout,
        device_id=world.device if cuda else None,
    )
