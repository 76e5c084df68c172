"""The processes of one run: their ranks, devices and collectives."""

import contextlib
import datetime
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trainer import host
from trainer.config import Device
from trainer.problems import ConfigError
from trainer.ranks import Ranks, read_ranks

Value = TypeVar("Value")


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
    device: Device = "cuda",
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
        found = torch.cuda.get_device_name(index)
        if wanted is not None and not is_gpu(found, wanted):
            expected = "a GPU with these words in its name"
            return f"gpu_name = {wanted}: found {found}; expected {expected}"
    return None


def is_gpu(found: str, wanted: str) -> bool:
    """Say whether a GPU's name contains the wanted words; GH200 does not contain the word H200.

    A slice of a GPU (MIG) does not match a full one.
    """
    words, expected = (re.findall(r"[a-z0-9.]+", name.lower()) for name in (found, wanted))
    return set(expected) <= set(words) and ("mig" in words) == ("mig" in expected)


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


def agree(value: int, world: World) -> int:
    """Return rank 0's value on every rank."""
    if world.size == 1:
        return value
    box = torch.tensor([value], dtype=torch.int64)
    dist.broadcast(box, src=0)
    return int(box.item())


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
    agree(0, world)
    if world.size > 1:
        dist.all_reduce(torch.zeros(1))


@dataclass(frozen=True)
class RankHost:
    """The machine of a rank."""

    host: str
    address: str
    """IP address that the name resolves to; empty if it does not."""
    cores: frozenset[int]
    """Cores that the rank may run on."""
    quota: int
    """Cores of CPU time available to it."""
    pid: int = field(default_factory=os.getpid)
    """Its process id."""


def gather_hosts(world: World) -> list[RankHost]:
    """Return every rank's machine, in rank order."""
    name = socket.gethostname()
    own = RankHost(name, _address(name), frozenset(os.sched_getaffinity(0)), host.count_cores())
    if world.size == 1:
        return [own]
    ranks = [own] * world.size
    dist.all_gather_object(ranks, own)
    return ranks


def cores_per_rank(ranks: list[RankHost]) -> float:
    """Return the cores per rank on the machine with the fewest."""
    shares = []
    for name in {rank.host for rank in ranks}:
        here = [rank for rank in ranks if rank.host == name]
        cores = len(frozenset().union(*(rank.cores for rank in here)))
        # Ranks share the quota if they share their cores.
        shared = here[0].cores == here[-1].cores
        cores = min(cores, here[0].quota) if shared else cores
        shares.append(cores / len(here))
    return min(shares)


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:  # a laptop's name may not resolve
        return ""
