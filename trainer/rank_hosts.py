"""The machines that the ranks of a run are on."""

import os
import socket
from dataclasses import dataclass, field

import torch.distributed as dist

from trainer import host
from trainer.world import World


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
