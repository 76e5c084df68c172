"""Choosing micro-batch, activation checkpointing and compilation, simulated and on this machine."""

from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.conftest import Runs
from trainer.commands import autotune
from trainer.commands.autotune import Clock, Setting, Timing, main, search
from trainer.config import RunConfig, load_run_config
from trainer.loop.learner import Learner, set_up_process
from trainer.loop.step import compute_step
from trainer.world import get_world


class Machine:
    """A step takes a second per sequence and `call_s` per micro-batch.

    Recomputing costs a half and a third more; `memory` sequences fit, twice and four times as many
    with it. Compiled steps take half as long, after `compile_s`.
    """

    def __init__(self, memory: int, call_s: float = 0.5, compile_s: float = 30.0) -> None:
        self.memory, self.call_s, self.compile_s = memory, call_s, compile_s
        self.tried: list[Setting] = []

    def __call__(self, setting: Setting) -> Timing | None:
        self.tried.append(setting)
        room, cost = {"none": (1, 1.0), "selective": (2, 1.3), "full": (4, 1.5)}[setting.ac_mode]
        if setting.batch_size > self.memory * room:
            return None
        step_s = setting.micro_batches * (setting.batch_size * cost + self.call_s)
        if setting.compiled:
            return Timing(step_s / 2, step_s / 2 + self.compile_s)
        return Timing(step_s, step_s)


def test_the_largest_batch_if_all_fit_and_a_short_run_is_not_compiled() -> None:
    machine = Machine(memory=8)
    assert search(8, 1, True, machine) == Setting(8, 1, "none", compiled=False)
    assert all(setting.ac_mode == "none" for setting in machine.tried)


def test_a_long_run_is_compiled() -> None:
    assert search(8, 100, True, Machine(memory=8)) == Setting(8, 1, "none", compiled=True)
    assert search(8, 100, False, Machine(memory=8)) == Setting(8, 1, "none", compiled=False)
    # A step takes 4.25 s for 8.5 s, and the first one 34.25 s for 8.5 s: 25.75 s more.
    for steps, compiled in ((6, False), (7, True)):
        assert search(8, steps, True, Machine(memory=8)) == Setting(8, 1, "none", compiled)


@pytest.mark.parametrize(("of_four_s", "best"), [(103.0, 2), (104.0, 8)])
def test_the_search_goes_on_past_a_batch_that_is_hardly_slower(of_four_s: float, best: int) -> None:
    """By less than 3%, which may be noise."""
    step_s = {8: 100.0, 4: of_four_s, 2: 90.0, 1: 95.0}
    found = search(8, 1, False, lambda setting: Timing(step_s[setting.batch_size], 0.0))
    assert found == Setting(best, 8 // best, "none", compiled=False)


def test_activation_checkpointing_is_chosen_only_if_micro_batches_are_expensive() -> None:
    # 8 micro-batches of 1: 8 + 8 * 0.5 = 12 s; 4 of 2: 8 * 1.3 + 4 * 0.5 = 12.4 s.
    assert search(8, 1, False, Machine(memory=1)) == Setting(1, 8, "none", compiled=False)
    # With 5 s per micro-batch: 48 s, 30.4 s, and 2 of 4 with full checkpointing 22 s.
    dear = Machine(memory=1, call_s=5.0)
    assert search(8, 1, False, dear) == Setting(4, 2, "full", compiled=False)


def test_nothing_fits() -> None:
    assert search(8, 1, True, Machine(memory=0)) is None


@given(st.integers(1, 48), st.integers(1, 64), st.floats(0.01, 10))
def test_the_global_batch_stays_and_what_is_chosen_fits(
    sequences: int, memory: int, call_s: float
) -> None:
    machine = Machine(memory, call_s)
    best = search(sequences, 10, True, machine)
    assert best is not None
    assert best.batch_size * best.micro_batches == sequences
    assert machine(best) is not None


def test_overrides_of_a_run_here(runs: Runs, capsys) -> None:
    """They are settings of a run.yaml, and the run takes them."""
    arguments = [f"config={runs.config}", "distributed.compile=false"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "tokens/s" in printed.err
    chosen = yaml.safe_load(printed.out)
    assert chosen["data"]["batch_size"] * chosen["grad_acc_steps"] == 4
    settings = [f"data={{batch_size: {chosen['data']['batch_size']}}}"]
    runs.run(f"grad_acc_steps={chosen['grad_acc_steps']}", *settings, "steps=2")


def test_steps_are_timed_as_a_run_takes_them(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, replayed from a CUDA graph, which the next setting does not find in memory."""
    config = load_run_config([f"config={runs.config}"])
    world = get_world("cpu")
    choices = replace(set_up_process(config, world), cuda_graphs=True)
    monkeypatch.setattr(autotune, "resolve_choices", lambda config, world: choices)
    graphs: list[Any] = []

    def prepare_steps(learner: Learner, config: RunConfig) -> None:
        learner.graph = Mock(side_effect=lambda tokens: compute_step(learner, tokens))
        learner.warm_up_steps = 4
        graphs.append((learner, learner.graph))

    monkeypatch.setattr(autotune, "prepare_steps", prepare_steps)
    timing = Clock(config, world)(Setting(2, 2, "none", compiled=False))
    assert timing is not None
    ((learner, graph),) = graphs
    assert graph.call_count == 4 + autotune.WARM_UP + autotune.STEPS
    assert learner.graph is None


def test_steps_that_warm_up_are_not_timed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which a CUDA graph has more than there are others."""
    clock = Clock(load_run_config([f"config={runs.config}"]), get_world("cpu"))
    times = [9.0, *[5.0] * 12, *[1.0] * autotune.STEPS]
    monkeypatch.setattr(clock, "_open", lambda setting: (Mock(), None))
    monkeypatch.setattr(clock, "_seconds", lambda learner, tokens: times)
    assert clock(Setting(4, 1, "none", compiled=False)) == Timing(step_s=1.0, first_s=9.0)


@pytest.mark.parametrize(("size", "fuses"), [(8, False), (4, True)])
def test_a_setting_has_the_choices_of_its_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, size: int, fuses: bool
) -> None:
    """wq, wk and wv of 256 x size tokens are fused below 2^22 multiply-adds: 2048 x 32 x 96."""
    settings = ["data.batch_size=8", "data.seq_len=256", "distributed.compile=false"]
    config = load_run_config([f"config={runs.config}", *settings])
    world = get_world("cpu")
    set_up_process(config, world)
    tried: list[Learner] = []

    def train_step(learner: Learner, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tried.append(learner)
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(autotune, "train_step", train_step)
    assert Clock(config, world)(Setting(size, 8 // size, "none", compiled=False)) is not None
    assert tried[0].choices.fused_projections == fuses
    assert not tried[0].choices.compiled


def test_sharded_weights_are_rejected(runs: Runs, capsys) -> None:
    assert main([f"config={runs.config}", "distributed.fsdp_type=full_shard"]) == 1
    assert "needs unsharded weights (fsdp_type: no_shard" in capsys.readouterr().err
