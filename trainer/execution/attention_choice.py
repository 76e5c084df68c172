"""The attention kernel of a run on a GPU, for which `auto` needs a benchmark.

It is chosen once: run.json records it and a resumed run keeps it, so that an interruption does not
change the losses.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from trainer.collectives import share
from trainer.config import RunConfig
from trainer.execution.attention_cache import Question, find_chosen, keep_chosen, versions
from trainer.execution.attention_timing import fastest
from trainer.execution.choices import Choices
from trainer.execution.precision import DTYPES, precision
from trainer.execution.sdpa import PACKAGES, UNFIT, allow_all, allow_only, is_usable
from trainer.problems import ConfigError
from trainer.world import World, device_name

UNMASKED = ("cudnn", "flash", "fa3", "fa4", "efficient")
"""Kernels to benchmark. Of equally fast ones the first is used."""

MASKED = ("cudnn", "efficient", "math")
"""Those to benchmark if attention needs a mask, in the same order."""

MOST_QUEUED, QUEUED_S = 10, 0.02
"""Passes that are timed in a row, and about how long they take."""


def choose_attention(
    config: RunConfig, choices: Choices, world: World, kept: str | None
) -> Choices:
    """Return the choices with an attention kernel: rank 0's choice on all ranks.

    `kept` is the kernel that a resumed run has used. Without it, the kernels are benchmarked.
    Raises ConfigError if the settings name a kernel that does not run here.
    """
    if choices.attention is not None:
        if config.device == "cuda" and choices.attention != "flex":
            _check(choices.attention, config, choices, world)
        return choices
    # The run may have named another, or only the earlier machine has the package.
    if kept not in _candidates(config) or not is_usable(kept):
        kept = None
    found = kept or _choose(config, choices, world)
    return replace(choices, attention=share(found, world))


def _check(name: str, config: RunConfig, choices: Choices, world: World) -> None:
    """Raise ConfigError unless a kernel takes the run's shape and dtype on this GPU."""
    try:
        allow_only(name)
        _attention_pass(config, choices, world)()
    except torch.OutOfMemoryError:  # the first step will report which batch fits
        return
    except UNFIT as error:
        _, _, heads, kv_heads, width = _shape(config, world)
        shape = f"{heads} heads, {kv_heads} of keys and values, of width {width}"
        problem = (
            f"distributed.attention = {name}: not supported here for {choices.model_dtype} and "
            f"{shape} ({' '.join(str(error).split())}); expected auto, or another kernel"
        )
        raise ConfigError("run", [problem]) from None
    finally:
        allow_all()


def _choose(config: RunConfig, choices: Choices, world: World) -> str:
    """Return the kernel that an earlier run's benchmark has chosen, otherwise that of a new one."""
    cache = config.distributed.compile_cache
    question = Question(
        kernels=_candidates(config),
        shape=_shape(config, world),
        dtype=choices.model_dtype,
        masked=config.is_masked,
        gpu=device_name(world),
        software=versions(PACKAGES.values()),
    )
    found = find_chosen(cache, question)
    if not is_usable(found):
        found = _fastest(config, choices, world)
        if found is not None and world.is_main:
            keep_chosen(cache, question, found)
    return found or "torch"


def _candidates(config: RunConfig) -> tuple[str, ...]:
    return MASKED if config.is_masked else UNMASKED


def _fastest(config: RunConfig, choices: Choices, world: World) -> str | None:
    """Return the kernel with the fastest forward and backward pass for this run's shape, if any
    runs."""
    try:
        work = _attention_pass(config, choices, world)
        return fastest(_candidates(config), lambda name: _seconds(name, work))
    except torch.OutOfMemoryError:  # the first step will report which batch fits
        return None
    finally:
        allow_all()


def _seconds(name: str, work: Callable[[], None]) -> float:
    """Return the GPU's seconds for a forward and backward pass with a kernel.

    Of several passes in a row: the launch of one would count as long as the GPU waits for it, which
    it does not within a step.
    """
    allow_only(name)
    once_s = _timed(work, 1)
    count = max(1, min(MOST_QUEUED, round(QUEUED_S / once_s)))
    return _timed(work, count) / count


def _timed(work: Callable[[], None], count: int) -> float:
    torch.accelerator.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        work()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


def _shape(config: RunConfig, world: World) -> tuple[int, int, int, int, int]:
    """Return sequences, tokens, heads, key-value heads and the width of a head, as a process has
    them."""
    model, data = config.model, config.data
    heads, kv_heads = model.n_heads // world.tp_size, model.kv_heads // world.tp_size
    return data.batch_size, data.seq_len, heads, kv_heads, model.head_dim


def _attention_pass(config: RunConfig, choices: Choices, world: World) -> Callable[[], None]:
    """Return a forward and backward pass of one layer's attention in the run's shape."""
    batch, length, heads, kv_heads, width = _shape(config, world)
    made = [
        torch.randn(
            (batch, length, count, width),
            dtype=DTYPES[choices.model_dtype],
            device=world.device,
            requires_grad=True,
        )
        for count in (heads, kv_heads, kv_heads)
    ]
    mask = None
    if config.is_masked:
        shape = (batch, 1, length, length)
        mask = torch.ones(shape, dtype=torch.bool, device=world.device).tril()

    def work() -> None:
        q, k, v = (tensor.transpose(1, 2) for tensor in made)
        with precision(choices.model_dtype, world.device):
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, enable_gqa=heads != kv_heads
            )
        mixed.sum().backward()

    return work
