"""Which rank the others wait for: by hand, and with one that is slowed down."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainer.conftest import Runs, read_records
from trainer import collectives
from trainer.loop.record import _compare_ranks
from trainer.loop.slow_ranks import LEAST_SHARE, OwnWork, SlowRanks, find_slow_rank
from trainer.world import World

HOSTS = ["a", "a", "b", "b"]


def found(*works: tuple[float, float, float], step_s: float = 0.1) -> tuple[Any, ...] | None:
    slow = find_slow_rank([OwnWork(*work) for work in works], step_s, HOSTS)
    return slow and (slow.rank, slow.host, slow.part, pytest.approx(slow.share))


def test_by_hand() -> None:
    usual = (0.001, 0.03, 0.0)
    assert found(usual, usual, usual, usual) is None
    assert found(usual, usual, (0.001, 0.055, 0.0), usual) == (2, "b", "forward", 0.25)
    assert found(usual, usual, usual, (0.041, 0.055, 0.0)) == (3, "b", "data", 0.4)
    assert found(usual, (0.0, 0.03 + 0.099 * LEAST_SHARE, 0.0)) is None
    # Of two ranks the faster one is the median.
    assert found(usual, (0.001, 0.06, 0.0)) == (1, "a", "forward", 0.3)


def test_a_gpu_with_a_low_clock() -> None:
    fast, slow, unknown = (0.0, 0.0, 1980.0), (0.0, 0.0, 1188.0), (0.0, 0.0, 0.0)
    assert found(fast, fast, slow, fast) == (2, "b", "clock", 0.4)
    assert found(slow, fast) == (0, "a", "clock", 0.4)
    assert found(fast, unknown, slow) is None


def test_an_interval_is_read_at_the_next_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks in one process, which take turns; in reality reading too early would hang."""
    tables: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    turn = 0

    def all_reduce(table: torch.Tensor, **_: Any) -> SimpleNamespace:
        place = len(tables[turn])
        tables[turn].append(table.clone())
        return SimpleNamespace(wait=lambda: table.copy_(tables[0][place] + tables[1][place]))

    monkeypatch.setattr(collectives.dist, "all_reduce", all_reduce)
    ranks = [SlowRanks(World(i, 2, i, 2, torch.device("cpu")), HOSTS) for i in range(2)]
    seen = []
    for forward_s in [(0.0, 9.0), (0.09, 0.01), (0.01, 0.05), (0.03, 0.03), (0.0, 0.0)]:
        for turn, own in enumerate(forward_s):
            slow = ranks[turn].compare(OwnWork(0.0, own, 0.0), step_s=0.1)
            seen.append(slow and slow.rank)
    # Of the first interval, in which the first step warms up, nothing is said.
    assert seen[::2] == seen[1::2] == [None, None, 0, 1, None]


def test_one_process_compares_nothing() -> None:
    alone = SlowRanks(World(0, 1, 0, 1, torch.device("cpu")), ["a"])
    assert [alone.compare(OwnWork(1, 1, 1), 1.0) for _ in range(3)] == [None] * 3
    alone.close()


@pytest.mark.parametrize(("is_sharded", "forward_s"), [(False, 0.2), (True, 0.0)])
def test_what_a_rank_does_alone_is_per_step(is_sharded: bool, forward_s: float) -> None:
    """Of three steps; the forward pass of sharded weights waits for other ranks."""
    seen = []
    learner = SimpleNamespace(is_sharded=is_sharded, forward_s=0.6)
    ranks = SimpleNamespace(compare=lambda *given: seen.append(given))
    session: Any = SimpleNamespace(
        learner=learner, slow_ranks=ranks, gpu=SimpleNamespace(clock_mhz=1980.0)
    )
    _compare_ranks(session, {"interval_steps": 3, "data_s": 0.3, "step_s": 0.5})
    assert seen == [(pytest.approx(OwnWork(0.1, forward_s, 1980.0)), 0.5)]
    assert learner.forward_s == 0


def test_a_rank_that_is_slowed_down(runs: Runs) -> None:
    """Two processes, of which the second takes longer for its data, and then its forward pass."""
    parts = ("data", "forward")
    settings = [(f"name=slow {part}", f"dump_dir={runs.out(part)}") for part in parts]
    runs.run_several([[f"config={runs.config}", *line] for line in settings], processes=2)
    for part in parts:
        slow = [record["ranks/slow"] for record in read_records(runs.out(part))]
        assert slow[:2] == [None, None]
        named = Counter((item["rank"], item["part"]) for item in slow[2:] if item)
        assert named.most_common(1)[0] == ((1, part), pytest.approx(len(slow) - 2, abs=2))
