"""The step as a CUDA graph, on a stand-in: replaying computes the captured call again in place."""

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.execution.graph import StepGraph
from trainer.loop import first_steps
from trainer.loop.step import train_step

Step = Callable[[Tensor], tuple[Tensor, Tensor]]


class Kernels:
    """The kernels of a step, and how often the CPU launched them."""

    def __init__(self, compute: Step) -> None:
        self.compute = compute
        self.launches = 0

    def __call__(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        self.launches += 1
        self.tokens, self.results = tokens, self.compute(tokens)
        return self.results

    def replay(self) -> None:
        """Run them again on the memory of the last launch."""
        for result, value in zip(self.results, self.compute(self.tokens), strict=True):
            result.copy_(value)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels(lambda tokens: (tokens.sum().double(), tokens.max().double()))

    @contextlib.contextmanager
    def capture(graph: Any, **options: Any) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        yield
        # A capture launches nothing: what it leaves in memory is not the results.
        for result in kernels.results:
            result.fill_(-1)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=kernels.replay))
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    return kernels


def test_a_replayed_step_reads_its_own_batch(kernels: Kernels) -> None:
    graph = StepGraph(kernels, eager_steps=2, release=lambda: None)
    for number in range(6):
        batch = torch.arange(4) * (number + 1)
        total, largest = graph(batch)
        assert (total.item(), largest.item()) == (6 * (number + 1), 3 * (number + 1))
        batch.zero_()  # the loader uses its memory again
    assert kernels.launches == 2 + 1


@pytest.mark.parametrize(("with_ddp", "eager"), [(False, 3), (True, 11)])
def test_a_captured_step_follows_the_learning_rate(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch, with_ddp: bool, eager: int
) -> None:
    """DDP times its first ten steps, with events that a capture must not wait for."""
    learner: Any = SimpleNamespace(
        device=torch.device("cpu"),
        trained=None,
        optimizer=SimpleNamespace(rate=0.0, zero_grad=lambda: None),
        graph=None,
    )
    monkeypatch.setattr(first_steps, "has_buckets", lambda model: with_ddp)
    monkeypatch.setattr(first_steps, "compute_step", lambda learner, tokens: kernels(tokens))
    kernels.compute = lambda tokens: (learner.optimizer.rate * 2, tokens.sum())
    first_steps.capture_later(learner, rate=1.0)
    for number in range(15):
        learner.optimizer.rate.fill_(number)
        doubled, _ = train_step(learner, torch.ones(2, dtype=torch.int64))
        assert doubled.item() == 2 * number
    assert kernels.launches == eager + 1
    assert learner.warm_up_steps == eager + 1


def test_memory_is_released_before_the_capture(kernels: Kernels) -> None:
    """Gradients that are freed during a capture stay beside those of the graph."""
    launches: list[int] = []
    graph = StepGraph(kernels, eager_steps=2, release=lambda: launches.append(kernels.launches))
    for _ in range(5):
        graph(torch.arange(4))
    assert launches == [2]
