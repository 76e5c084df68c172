"""The attention kernel that `auto` chooses, on a simulated GPU and on this CPU."""

import random
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.trainer.conftest import Runs
from tests.trainer.small_runs import ALONE, make_summary
from trainer.config import load_run_config
from trainer.execution import attention_choice, attention_timing, kernels, sdpa
from trainer.execution.attention_timing import MARGIN, fastest, first_within_margin
from trainer.loop.learner import resolve_choices
from trainer.loop.session import _kept_attention
from trainer.problems import ConfigError
from trainer.world import device_name, get_world

KERNELS = {"cudnn": 2.0e-3, "flash": 2.1e-3, "efficient": 3.0e-3}
"""Seconds of a pass at full clock."""


class Gpu:
    """A GPU that idles at 345 of its 1,980 MHz, as an H200 does, and is up to them within 0.3 s.

    One pass in four is disturbed, and takes a quarter longer on average.
    """

    def __init__(self, seed: int, kernels: dict[str, float]) -> None:
        self.kernels, self._draw = kernels, random.Random(seed)
        self.now, self.passes = 0.0, 0
        self._full_clock_at = 0.3 * self._draw.uniform(0.5, 1.0)

    def clock(self) -> float:
        return self.now

    def seconds(self, name: str) -> float:
        """Do a pass."""
        if name not in self.kernels:
            raise RuntimeError("No available kernel. Aborting execution.")
        clock = min(1.0, 345 / 1980 + (1 - 345 / 1980) * self.now / self._full_clock_at)
        disturbed = self._draw.random() < 0.25
        noise = self._draw.expovariate(4) if disturbed else self._draw.uniform(0, 0.01)
        took = self.kernels[name] / clock * (1 + noise)
        self.now += took
        self.passes += 1
        return took


def answers(
    choice: Callable[[Gpu], str | None], kernels: dict[str, float] = KERNELS
) -> set[str | None]:
    """Return all answers that ten processes give, each of which finds an idle GPU."""
    return {choice(Gpu(seed, kernels)) for seed in range(10)}


def in_turns(gpu: Gpu) -> str | None:
    return fastest(attention_choice.UNMASKED, gpu.seconds, gpu.clock)


def one_after_the_other(gpu: Gpu) -> str:
    """Three passes to warm up and five that count, kernel by kernel: what one would do first."""
    timings = {name: [gpu.seconds(name) for _ in range(8)][3:] for name in gpu.kernels}
    medians = {name: statistics.median(times) for name, times in timings.items()}
    return min(medians, key=lambda name: medians[name])


def test_ten_processes_choose_the_same_kernel() -> None:
    assert answers(in_turns) == {"cudnn"}


def test_a_simpler_choice_differs_from_process_to_process() -> None:
    """It shows that the GPU above is as treacherous as the real one."""
    assert len(answers(one_after_the_other)) > 1


@pytest.mark.parametrize("gpu_s", [0.5e-3, 5e-3, 0.5])
def test_a_pass_counts_the_time_of_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu_s: float) -> None:
    """A launch takes the host 0.2 ms; the GPU begins at once and works on, as within a step.

    At first it is at work for another 0.3 s, on passes of the kernel before.
    """
    now, done_at = 10.0, 10.3
    passes = 0

    def work() -> None:
        nonlocal now, done_at, passes
        now += 0.2e-3
        done_at = max(done_at, now) + gpu_s
        passes += 1

    def synchronize() -> None:
        nonlocal now
        now = max(now, done_at)

    monkeypatch.setattr(torch.accelerator, "synchronize", synchronize)
    monkeypatch.setattr(attention_choice.time, "perf_counter", lambda: now)
    monkeypatch.setattr(attention_choice, "allow_only", lambda name: None)
    assert attention_choice._seconds("flash", work) == pytest.approx(gpu_s, rel=0.05)
    assert passes <= 1 + attention_choice.MOST_QUEUED
    assert passes * gpu_s <= max(2 * gpu_s, attention_choice.QUEUED_S + gpu_s)


def test_the_order_decides_between_kernels_that_are_equally_fast() -> None:
    assert answers(in_turns, {"efficient": 2e-3, "flash": 2e-3}) == {"flash"}
    assert answers(in_turns, {"efficient": 2e-3, "flash": 2e-3 * (1 + MARGIN / 2)}) == {"flash"}
    assert answers(in_turns, {"efficient": 2e-3, "flash": 2e-3 * (1 + MARGIN * 2)}) == {"efficient"}
    assert first_within_margin({"a": 1.03, "b": 1.01, "c": 1.0}) == "b"


def test_kernels_that_do_not_run_are_skipped() -> None:
    assert answers(in_turns, {"efficient": 5e-3}) == {"efficient"}
    assert answers(in_turns, {}) == {None}


def test_slow_kernels_get_enough_rounds() -> None:
    """Passes of a second: one to see whether the kernel runs, one to warm up, five that count."""
    gpu = Gpu(0, {"cudnn": 1.0, "flash": 1.2})
    assert in_turns(gpu) == "cudnn"
    assert gpu.passes == 2 * (1 + 1 + 5)


def test_the_kernels_of_this_cpu(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that a CPU has, flash is the faster by far, and afterwards all are allowed again."""
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)  # a CPU has no need
    monkeypatch.setattr(attention_choice, "UNMASKED", ("math", "flash"))
    monkeypatch.setattr(attention_timing, "WARM_UP_S", 0.0)
    config = load_run_config([f"config={runs.config}", "data.seq_len=512"])
    world = get_world("cpu")
    assert attention_choice._fastest(config, resolve_choices(config, world), world) == "flash"
    assert torch.backends.cuda.math_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("settings", "dtype", "mask"),
    [
        (["distributed.model_dtype=fp32"], torch.float32, None),
        (["distributed.model_dtype=bf16", "model.sliding_window=16"], torch.bfloat16, (4, 1, 8, 8)),
    ],
)
def test_a_pass_is_that_of_one_layer_and_one_process(
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    dtype: torch.dtype,
    mask: tuple[int, ...] | None,
) -> None:
    """Four sequences of 8 tokens; of 8 heads and 4 key-value heads of width 4, half in each."""
    shape = "model={dim: 32, n_layers: 2, n_heads: 8, n_kv_heads: 4, multiple_of: 32}"
    arguments = [f"config={runs.config}", shape, "data.seq_len=8", *settings]
    config, world = load_run_config(arguments), replace(get_world("cpu"), size=2, tp_size=2)
    attend = torch.nn.functional.scaled_dot_product_attention
    passes: list[tuple[Any, ...]] = []
    gradients: list[torch.Tensor] = []

    def noted(*inputs: Any, **options: Any) -> torch.Tensor:
        passes.append((*inputs, options))
        for tensor in inputs[:3]:
            tensor.register_hook(gradients.append)
        return attend(*inputs, **options)

    monkeypatch.setattr(attention_choice.F, "scaled_dot_product_attention", noted)
    attention_choice._attention_pass(config, resolve_choices(config, world), world)()
    ((q, k, v, used, options),) = passes
    assert [tuple(x.shape) for x in (q, k, v)] == [(4, 4, 8, 4), (4, 2, 8, 4), (4, 2, 8, 4)]
    assert {x.dtype for x in (q, k, v)} == {dtype}
    assert options == {"is_causal": mask is None, "enable_gqa": True}
    assert mask == (None if used is None else used.shape)
    if used is not None:
        assert used.dtype == torch.bool and used[0, 0, :2, :3].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert len(gradients) == 3


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("model.sliding_window=null", "UNMASKED"), ("model.sliding_window=16", "MASKED")],
)
def test_kernels_that_take_no_mask_are_not_asked_for_one(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, setting: str, expected: str
) -> None:
    monkeypatch.setattr(attention_choice, "fastest", lambda names, seconds: ", ".join(names))
    config, world = load_run_config([f"config={runs.config}", setting]), get_world("cpu")
    found = attention_choice._fastest(config, resolve_choices(config, world), world)
    assert found == ", ".join(getattr(attention_choice, expected))


def test_missing_fa3_is_reported_in_one_line(runs: Runs) -> None:
    settings = ("device=cuda", "distributed.attention=fa3")
    config = load_run_config([f"config={runs.config}", *settings])
    with pytest.raises(ConfigError) as caught:
        kernels.check(config)
    (problem,) = caught.value.problems
    assert str(problem).startswith("distributed.attention = fa3: needs the package flash_attn_3")
    assert torch.backends.cuda.math_sdp_enabled()


def test_a_resumed_run_keeps_its_kernel_on_the_same_gpu() -> None:
    earlier = make_summary(gpu_name=device_name(ALONE), choices={"attention": "flash"})
    assert _kept_attention(earlier, ALONE) == "flash"
    assert _kept_attention(earlier.model_copy(update={"gpu_name": "another"}), ALONE) is None
    assert _kept_attention(None, ALONE) is None


@pytest.mark.parametrize(
    ("kept", "settings"),
    [
        ("math", ["model.sliding_window=null"]),
        ("flex", ["model.sliding_window=16", "distributed.activation_checkpointing=full"]),
        ("torch", ["model.sliding_window=null"]),
    ],
    ids=["named before", "not with these settings", "none had run"],
)
def test_a_resumed_run_keeps_no_kernel_that_auto_would_not_choose(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, kept: str, settings: list[str]
) -> None:
    config = load_run_config([f"config={runs.config}", "device=cuda", *settings])
    choices = resolve_choices(config, ALONE)
    assert choices.attention is None
    monkeypatch.setattr(attention_choice, "fastest", lambda names, seconds: names[1])
    used = attention_choice.choose_attention(config, choices, ALONE, kept).attention
    assert used == ("efficient" if config.is_masked else "flash")
    assert attention_choice.choose_attention(config, choices, ALONE, "cudnn").attention == "cudnn"


def test_a_named_kernel_that_does_not_take_the_shape_is_reported(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As flash attention does not take fp32 on a GPU."""
    settings = ["device=cuda", "distributed.attention=flash", "distributed.model_dtype=fp32"]
    config = load_run_config([f"config={runs.config}", *settings])
    choices = resolve_choices(config, ALONE)
    used: list[str] = []

    def refuse(*_: Any, **__: Any) -> None:
        used.extend(sdpa.enabled())
        raise RuntimeError("No available kernel. Aborting execution.")

    assert attention_choice.choose_attention(config, choices, ALONE, None) == choices
    monkeypatch.setattr(attention_choice.F, "scaled_dot_product_attention", refuse)
    with pytest.raises(ConfigError, match=r"attention = flash: not .* fp32 and 2 heads"):
        attention_choice.choose_attention(config, choices, ALONE, None)
    assert used == ["flash"]
    assert len(sdpa.enabled()) == len(sdpa.SWITCHES)
