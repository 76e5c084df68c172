"""The machines of a run's ranks."""

import os
import socket

import pytest
import torch

from trainer.rank_hosts import RankHost, cores_per_rank, gather_hosts
from trainer.world import World


def test_cores_per_rank_are_those_of_the_smallest_machine() -> None:
    here = [RankHost("a", "", frozenset(range(8)), 8)] * 2
    there = [RankHost("b", "", frozenset({core}), 1) for core in range(2)]
    assert cores_per_rank(here) == 4
    limited = [RankHost("a", "", frozenset(range(8)), 3)] * 2  # a quota of three cores
    assert cores_per_rank(limited) == 1.5
    assert cores_per_rank([*here, *there]) == 1


def test_a_single_process_is_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop, the machine's name may have no address."""

    def fail(name: str) -> str:
        raise socket.gaierror

    alone = World(0, 1, 0, 1, torch.device("cpu"))
    monkeypatch.setattr(socket, "gethostname", lambda: "a")
    monkeypatch.setattr(socket, "gethostbyname", {"a": "10.0.0.1"}.__getitem__)
    (host,) = gather_hosts(alone)
    assert (host.host, host.address, host.pid) == ("a", "10.0.0.1", os.getpid())
    assert host.cores == os.sched_getaffinity(0)
    monkeypatch.setattr(socket, "gethostbyname", fail)
    (host,) = gather_hosts(alone)
    assert (host.host, host.address) == ("a", "")
