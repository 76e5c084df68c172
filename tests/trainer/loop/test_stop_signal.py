"""How processes agree: here several ranks in one process, which take their steps in turns."""

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer import collectives
from trainer.loop import stop_signal
from trainer.loop.stop_signal import StopSignal
from trainer.signals import STOP_SIGNALS
from trainer.world import World


class Ranks:
    """Stop signals of several ranks, sums between them, and a clock of their own."""

    def __init__(self, size: int, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self._rank = 0
        self._given: list[list[Tensor]] = [[] for _ in range(size)]
        patch.setattr(stop_signal, "time", SimpleNamespace(perf_counter=lambda: self.now))
        patch.setattr(collectives.dist, "all_reduce", self._all_reduce)
        worlds = [World(rank, size, rank, size, torch.device("cpu")) for rank in range(size)]
        self.signals = [StopSignal(world) for world in worlds]

    @property
    def sums(self) -> int:
        return len(self._given[0])

    def _all_reduce(self, value: Tensor, **_: Any) -> SimpleNamespace:
        place = len(self._given[self._rank])
        self._given[self._rank].append(value.clone())

        def wait() -> None:
            # Fails where a rank has not contributed to this sum: in reality it would hang.
            value.copy_(sum(given[place] for given in self._given))

        return SimpleNamespace(wait=wait)

    def step(self, seconds: float) -> list[bool]:
        """Take a step on all ranks; return what each of them then does."""
        self.now += seconds
        stops = []
        for rank, stop in enumerate(self.signals):
            self._rank = rank
            stops.append(stop.agreed())
        return stops

    def ask(self, rank: int) -> None:
        self.signals[rank]._receive(signal.SIGTERM, None)


@pytest.fixture(scope="module", autouse=True)
def handlers() -> Iterator[None]:
    """Signals are handled as before, afterwards."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@given(
    size=st.integers(2, 4),
    asked=st.integers(0, 3),
    before=st.lists(st.floats(1e-4, 3.0), max_size=80),
    after=st.floats(1e-4, 3.0),
)
def test_all_ranks_stop_at_the_same_step(
    size: int, asked: int, before: list[float], after: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        ranks = Ranks(size, patch)
        for seconds in before:
            assert not any(ranks.step(seconds))
        ranks.ask(asked % size)
        for _ in range(StopSignal.MOST_STEPS + 1):
            stops = ranks.step(after)
            assert len(set(stops)) == 1
            if any(stops):
                return
        pytest.fail("a request was not heard")


@pytest.mark.parametrize(("step_s", "sums"), [(0.001, 320 // 8), (0.05, 320 // 4), (1.0, 320)])
def test_short_steps_need_few_all_reduces(
    monkeypatch: pytest.MonkeyPatch, step_s: float, sums: int
) -> None:
    """0.2 s hold four steps of 0.05 s; of steps of 1 ms no more than 8 are let pass."""
    ranks = Ranks(2, monkeypatch)
    for _ in range(320):
        ranks.step(step_s)
    assert ranks.sums == pytest.approx(sums, abs=2)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_each_signal_asks_to_stop_however_often_it_comes(name: str) -> None:
    """Slurm's, the study's, lingua's and Ctrl-C."""
    stop = StopSignal(World(0, 1, 0, 1, torch.device("cpu")))
    assert not stop.agreed()
    for _ in range(2):
        signal.raise_signal(signal.Signals[name])
    assert stop.agreed()
