"""What ranks agree on."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest
import torch

from tests.waiting import PATIENCE_S, wait_until
from trainer import collectives
from trainer.collectives import found_by_main, mean_over_ranks, sum_over_ranks, waiting_for_all
from trainer.problems import ConfigError
from trainer.world import World

MAIN, OTHER = (World(rank, 2, rank, 2, torch.device("cpu")) for rank in (0, 1))
ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def refuse() -> NoReturn:
    raise ConfigError("here", ["nothing found"])


def test_the_main_process_alone_looks_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the ranks read the folder, printed its warnings, and might have seen another state of
    a network file system."""
    sent: list[object] = []
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda value, op: None)
    monkeypatch.setattr(collectives, "share", lambda value, _: sent.append(value) or value)
    assert found_by_main(lambda: "found", MAIN) == "found"
    with pytest.raises(ConfigError, match="nothing found"):
        found_by_main(refuse, MAIN)
    assert sent == ["found", None]
    monkeypatch.setattr(collectives, "share", lambda value, _: "found")
    assert found_by_main(refuse, OTHER) == "found"
    monkeypatch.setattr(collectives, "share", lambda value, _: None)
    with pytest.raises(SystemExit) as ended:
        found_by_main(refuse, OTHER)
    assert ended.value.code == 1


def test_a_mean_leaves_the_value_of_a_rank_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of losses go on after a checkpoint has taken their mean. The other rank has 5."""
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda value, op: value.add_(5.0))
    own = torch.tensor(3.0)
    assert mean_over_ranks(own, MAIN).item() == 4
    assert mean_over_ranks(own, ALONE).item() == 3
    assert own.item() == 3
    assert sum_over_ranks(own, ALONE).item() == 3
    assert sum_over_ranks(own, MAIN).item() == 8


@pytest.mark.parametrize("slow", [0, 1])
def test_ranks_that_wait_for_another_are_told_that_it_is_there(
    slow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenising a large text takes longer than a collective may. The ranks are threads here."""
    meeting, own, sums = threading.Barrier(2), {}, []

    def all_reduce(value: torch.Tensor, op: object) -> None:
        own[threading.get_ident()] = value.item()
        meeting.wait(PATIENCE_S)
        value.fill_(sum(own.values()))
        sums.append(value.item())
        meeting.wait(PATIENCE_S)

    def work(rank: int) -> int:
        with waiting_for_all(World(rank, 2, rank, 2, torch.device("cpu"), timeout_s=0.2)):
            if rank == slow:
                wait_until(lambda: len(sums) >= 6, "three collectives of two ranks")
        return len(sums)

    monkeypatch.setattr(collectives.dist, "all_reduce", all_reduce)
    with ThreadPoolExecutor(2) as ranks:
        seen = list(ranks.map(work, (0, 1)))
    assert min(seen) >= 8, "no rank goes on before the slow one is done"
    assert sums[-2:] == [0, 0]


def test_a_rank_that_fails_waits_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(collectives.dist, "all_reduce", lambda value, op: asked.append(value))
    with pytest.raises(OSError, match="a full disk"), waiting_for_all(MAIN):
        raise OSError("a full disk")
    wait_until(lambda: "waiting" not in {thread.name for thread in threading.enumerate()}, "end")
    assert not asked
