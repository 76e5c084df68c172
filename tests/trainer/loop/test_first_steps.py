"""What happens before and in the first steps of an attempt."""

import contextlib
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.trainer.conftest import Runs
from tests.trainer.loop.open_run import open_run
from tests.trainer.small_runs import run_config
from trainer.execution.graph import DDP_STEPS, EAGER_STEPS
from trainer.folder.failure import DoesNotFit, describe
from trainer.loop import first_steps
from trainer.loop.first_steps import (
    capture_later,
    copies_take_gradients,
    find_fitting_batch,
    rehearse,
    warm_up_step,
)
from trainer.model.model import Transformer
from trainer.world import World


def test_a_rehearsal_does_not_change_the_run(runs: Runs) -> None:
    session = open_run(runs)
    try:
        before = {name: value.clone() for name, value in session.learner.model.state_dict().items()}
        rehearse(session.learner, session.world)
        after = session.learner.model.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
        assert all(parameter.grad is None for parameter in session.learner.model.parameters())
    finally:
        session.close()


@pytest.mark.parametrize(
    ("local_rank", "compiled", "sharded", "expected"),
    [
        (0, True, False, ["alone", "wait", "together"]),
        (1, True, False, ["wait", "together"]),
        (0, True, True, ["together"]),  # one rank of a sharded model cannot run alone
        (0, False, False, ["together"]),
    ],
)
def test_one_rank_of_a_machine_compiles_first(
    monkeypatch: pytest.MonkeyPatch,
    local_rank: int,
    compiled: bool,
    sharded: bool,
    expected: list[str],
) -> None:
    done = []

    def compile_ahead(learner: Any, communicates: bool = True) -> None:
        done.append("together" if communicates else "alone")

    @contextlib.contextmanager
    def waiting_for_all(world: World) -> Iterator[None]:
        yield
        done.append("wait")

    monkeypatch.setattr(first_steps, "compile_ahead", compile_ahead)
    monkeypatch.setattr(first_steps, "waiting_for_all", waiting_for_all)
    learner: Any = SimpleNamespace(choices=SimpleNamespace(compiled=compiled), is_sharded=sharded)
    world = World(local_rank, 2, local_rank, 2, torch.device("cpu"))
    rehearse(learner, world)
    assert done == expected


@pytest.mark.parametrize("rehearsed", [False, True])
@pytest.mark.parametrize(("most", "fits"), [(4, 4), (3, 2), (1, 1), (0, None)])
def test_the_largest_batch_that_fits_is_reported(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, most: int, fits: int | None, rehearsed: bool
) -> None:
    """A model that is out of memory above so many sequences, and a batch of 8."""
    session = open_run(runs, "data.batch_size=8")
    forward = Transformer.forward

    def limited(model: Transformer, tokens: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        assert tokens.shape[1] == session.config.data.seq_len
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(model, tokens, *rest)

    monkeypatch.setattr(Transformer, "forward", limited)
    try:
        with pytest.raises(DoesNotFit) as caught:
            learner, batch = session.learner, next(session.loader)
            rehearse(learner, session.world) if rehearsed else warm_up_step(learner, batch)
        assert caught.value.fits == fits
        message = describe(caught.value, session.config, session.world).message
        if fits is None:
            assert "Not even one sequence fits" in message
        else:
            assert f"data.batch_size={fits} grad_acc_steps={8 // fits}, which keeps" in message
            assert "global batch of 8" in message
    finally:
        session.close()


def test_ranks_with_shards_of_the_weights_try_no_batch(runs: Runs) -> None:
    """Each would try by itself, and wait for the others."""
    session = open_run(runs)
    try:
        session.learner.is_sharded = True
        assert find_fitting_batch(session.learner) is None
    finally:
        session.close()


@pytest.mark.parametrize(
    ("passes", "with_ddp", "expected"), [(1, False, True), (2, False, False), (1, True, False)]
)
def test_gradients_that_are_summed_are_not_rounded_to_bf16(
    tmp_path: Path, passes: int, with_ddp: bool, expected: bool
) -> None:
    """Over micro-batches or processes."""
    config = run_config(tmp_path, grad_acc_steps=passes)
    assert copies_take_gradients(config, with_ddp) is expected


@pytest.mark.parametrize(("with_ddp", "eager"), [(False, EAGER_STEPS), (True, DDP_STEPS)])
def test_steps_are_steady_after_that_of_the_capture(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, with_ddp: bool, eager: int
) -> None:
    monkeypatch.setattr(first_steps, "has_buckets", lambda model: with_ddp)
    session = open_run(runs)
    try:
        capture_later(session.learner, rate=1e-3)
        assert session.learner.warm_up_steps == eager + 1
    finally:
        session.close()


def test_a_closed_session_holds_no_graph(runs: Runs) -> None:
    """NCCL waits at the end of its group for graphs; collection is off then, and cycles stay."""
    session = open_run(runs)
    capture_later(session.learner, rate=1e-3)
    graph = weakref.ref(session.learner.graph)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        session.close()
        assert graph() is None
    finally:
        gc.enable()
        gc.unfreeze()
