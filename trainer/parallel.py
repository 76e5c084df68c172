"""The processes of one run: who they are, and how they talk.

Everything is read from the variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE). Nothing of Slurm's is read: inside a job step SLURM_PROCID and SLURM_NTASKS
describe the step, not the ranks that torchrun started in it.
"""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from trainer import host
from trainer.config import DistributedConfig


@dataclass(frozen=True)
class World:
    """This process and its peers."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    tp_size: int = 1
    """Neighbouring processes that share each matrix, and so the same samples."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which share of the samples this process reads."""
        return self.rank // self.tp_size

    @property
    def data_size(self) -> int:
        """Number of shares of the samples."""
        return self.size // self.tp_size

    @property
    def nodes(self) -> int:
        """Machines that the processes are on."""
        return self.size // self.local_size


def get_world(tp_size: int = 1) -> World:
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
    return World(rank, size, local_rank, local_size, device, tp_size)


@contextlib.contextmanager
def process_group(world: World, timeout_s: float) -> Iterator[Callable[[], None]]:
    """Hold the process group open; a lone process needs none.

    The processes meet in the background: call what this yields before talking to them. A collective
    that takes longer than `timeout_s` fails: a rank that hangs ends the run. After a failure the
    group is left as it is, for leaving it in order waits for all ranks.
    """
    if world.size == 1:
        yield lambda: None
        return
    with ThreadPoolExecutor(1, "process_group") as pool:
        meeting = pool.submit(_meet, world, timeout_s)
        yield meeting.result
    dist.destroy_process_group()


def _meet(world: World, timeout_s: float) -> None:
    cuda = world.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(world.device)  # each thread has a device of its own
    dist.init_process_group(
        # The CPU half carries what must not wait for the GPU: stop requests, host names.
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        timeout=datetime.timedelta(seconds=timeout_s),
        device_id=world.device if cuda else None,
    )


def set_threads(config: DistributedConfig, world: World) -> None:
    """Give this process its share of the machine's cores, or what the user asks for.

    OMP_NUM_THREADS counts, but for the 1 that torchrun sets for all its processes.
    """
    asked = os.environ.get("OMP_NUM_THREADS")
    if config.threads is None and asked is not None and (world.local_size == 1 or asked != "1"):
        return
    share = host.threads_per_rank(host.count_cores(), world.local_size)
    torch.set_num_threads(config.threads or share)


def set_arithmetic(config: DistributedConfig) -> None:
    """Set what torch keeps for the whole process."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = config.matmul_allow_tf32
    matmul.allow_bf16_reduced_precision_reduction = config.allow_bf16_reduced_precision_reduction
    torch.autograd.set_detect_anomaly(config.detect_anomaly)


def resolve_dtype(config: DistributedConfig, device: torch.device) -> Literal["bf16", "fp32"]:
    """Return the arithmetic of the forward and backward pass; `auto` is what the device has."""
    if config.model_dtype != "auto":
        return config.model_dtype
    return "bf16" if device.type != "cpu" or host.has_bf16(host.processor()) else "fp32"


def resolve(config: DistributedConfig, device: torch.device) -> DistributedConfig:
    """Return the settings with the arithmetic that `auto` stands for."""
    return config.model_copy(update={"model_dtype": resolve_dtype(config, device)})


def precision(config: DistributedConfig, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context of the forward pass: bf16 products over fp32 master weights, or fp32."""
    if resolve_dtype(config, device) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def is_sharded(config: DistributedConfig, world: World) -> bool:
    """Say whether weights are spread over processes."""
    # DDP does not know tensors that are split; FSDP2 with one shard for each copy does the same.
    return world.size > 1 and config.spreads_weights


def mean_over_ranks(value: Tensor, world: World) -> Tensor:
    """Return the mean of a scalar over all processes, on its device and without waiting for it."""
    if world.size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value, op=dist.ReduceOp.SUM)
    return value / world.size


def sum_over_ranks(values: Tensor, world: World) -> Tensor:
    """Return the sum of a tensor over all processes, which have it on the CPU."""
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


@dataclass(frozen=True)
class Place:
    """The machine of a rank."""

    host: str
    address: str
    """What the host's name leads to: over it the machine's ranks are reached."""
    cores: frozenset[int]
    """Cores that the rank may run on."""
    quota: int
    """Cores' worth of time that it may have."""
    pid: int = field(default_factory=os.getpid)
    """Its process, whose CPU time is the run's own."""


def gather_places(world: World) -> list[Place]:
    """Return every rank's machine, in rank order."""
    name = socket.gethostname()
    own = Place(name, _address(name), frozenset(os.sched_getaffinity(0)), host.count_cores())
    if world.size == 1:
        return [own]
    places = [own] * world.size
    dist.all_gather_object(places, own)
    return places


def cores_per_rank(places: list[Place]) -> float:
    """Return the cores of a rank on the machine that has least for each of its ranks."""
    shares = []
    for name in {place.host for place in places}:
        here = [place for place in places if place.host == name]
        cores = len(frozenset().union(*(place.cores for place in here)))
        # Ranks that share their cores share the quota; those with cores of their own do not.
        shared = here[0].cores == here[-1].cores
        cores = min(cores, here[0].quota) if shared else cores
        shares.append(cores / len(here))
    return min(shares)


def _address(name: str) -> str:
    try:
        return socket.gethostbyname(name)
    except OSError:  # a laptop's name may lead nowhere
        return ""


class StopSignal:
    """SIGTERM and SIGUSR1 ask the run to save and leave; all ranks must leave at the same step.

    In the same way all ranks learn that rank 0 has something ready for them, see `ready`.

    Every now and then all ranks contribute their flag to a sum over the CPU group, which travels
    while the next step computes and is read one step later, so the GPU never waits for it. The next
    sum is due `EVERY_S` later, in steps as long as those of rank 0 were, so that short steps do not
    pay for it; all ranks learn from the sum in how many steps that is.
    """

    EVERY_S = 0.2
    MOST_STEPS = 8
    """Steps from one sum to the next at most: those to come may take longer, or be the last."""

    def __init__(self, world: World) -> None:
        import signal

        self._world, self._flag = world, 0
        self.ready = False
        """Rank 0 has something: it says so from then on."""
        self.all_know = False
        """All ranks have heard of it, at the same step."""
        self._pending: tuple[dist.Work, Tensor] | None = None
        self._pause = self._steps = 0  # from one sum to the next, and since the last one
        self._since = time.perf_counter()
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        self._flag = 1

    def agreed(self) -> bool:
        """Say whether any rank had been asked to stop; call it once in every step."""
        if self._world.size == 1:
            self.all_know = self.ready
            return bool(self._flag)
        self._steps += 1
        stop = False
        if self._pending is not None:
            work, total = self._pending
            self._pending = None
            work.wait()
            flags, ready, self._pause = total.tolist()
            stop, self.all_know = flags > 0, ready > 0
        if self._steps >= self._pause:
            self._contribute()
        return stop

    def _contribute(self) -> None:
        now = time.perf_counter()
        pause = 0
        if self._world.is_main:
            step_s = (now - self._since) / self._steps
            pause = min(self.MOST_STEPS, max(1, round(self.EVERY_S / step_s)))
        total = torch.tensor([self._flag, int(self.ready), pause], dtype=torch.int32)
        work = dist.all_reduce(total, op=dist.ReduceOp.SUM, async_op=True)
        assert work is not None
        self._pending = (work, total)
        self._since, self._steps = now, 0

    def close(self) -> None:
        """Wait for the sum that is under way."""
        if self._pending is not None:
            self._pending[0].wait()
            self._pending = None
