"""The kernels of a run: attention, fp32 matmuls on a CPU, and float8.

A benchmarked kernel is chosen once: run.json records it and a resumed run keeps it, so that an
interruption does not change the losses.
"""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import attention

from trainer.collectives import share
from trainer.config import DistributedConfig, RunConfig
from trainer.execution import attention_timing
from trainer.execution.choices import Choices
from trainer.execution.chosen_attention import Question, find_chosen, keep_chosen, versions
from trainer.execution.precision import DTYPES, precision
from trainer.model.block import Attention, FeedForward
from trainer.model.linear import Linear
from trainer.model.model import Transformer
from trainer.problems import ConfigError
from trainer.world import World, device_name

NO_TORCHAO = "distributed.float8_recipe: needs torchao (pip install torchao)"

PACKAGES = {"fa3": "flash_attn_3", "fa4": "flash-attn-4"}
"""Attention kernel -> the package that it needs."""

GPUS = {"fa3": "GPUs like the H100", "fa4": "GPUs from the H100 on"}
"""Attention kernel of a package -> what it runs on."""

UNMASKED = ("cudnn", "flash", "fa3", "fa4", "efficient")
"""Attention kernels to benchmark on a GPU. Of equally fast ones the first is used."""

MOST_QUEUED, QUEUED_S = 10, 0.02
"""Passes that are timed in a row, and about how long they take."""

MASKED = ("cudnn", "efficient", "math")
"""Those to benchmark if attention needs a mask, in the same order."""


def check(config: RunConfig) -> None:
    """Raise ConfigError if a run names a kernel that is not installed."""
    wanted = config.distributed.attention
    problem = _find_problem(wanted) if wanted in PACKAGES else None
    if problem is not None:
        raise ConfigError("run", [f"distributed.attention = {wanted}: {problem}"])
    if config.distributed.float8_recipe is not None and find_spec("torchao") is None:
        raise ConfigError("run", [NO_TORCHAO])


def choose_attention(
    config: RunConfig, choices: Choices, world: World, kept: str | None = None
) -> Choices:
    """Return the choices with an attention kernel: rank 0's choice on all ranks.

    `kept` is the kernel that a resumed run has used. Without it, the kernels are benchmarked.
    """
    if choices.attention is not None:
        return choices
    if not _is_usable(kept):
        kept = None  # only the earlier machine has the package
    found = kept or _choose(config, choices, world)
    return replace(choices, attention=share(found, world))


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
    if not _is_usable(found):
        found = _fastest(config, choices, world)
        if found is not None and world.is_main:
            keep_chosen(cache, question, found)
    return found or "torch"


def use(choices: Choices, model: Transformer) -> None:
    """Make torch and the model use the chosen kernels."""
    assert choices.attention is not None, "chosen by choose_attention"
    model.masks_blocks = choices.attention == "flex"
    if choices.attention in ("torch", "flex"):  # flex is not one of SDPA's kernels
        _allow_all()
    else:
        _allow_only(choices.attention)
    fast_cpu = choices.cpu_matmul == "onednn"
    for module in model.modules():
        if isinstance(module, Linear):
            module.fast_cpu = fast_cpu
        elif isinstance(module, Attention | FeedForward):
            module.one_kernel = choices.fused_pointwise and module.fits_kernel


def _allow_only(name: str) -> None:
    """Enable a single attention kernel for the whole process, so that compiled code uses it."""
    _allow_all()
    if name in PACKAGES:
        attention.activate_flash_attention_impl(name.upper())
    backends = torch.backends.cuda  # its switches apply to the CPU too
    backends.enable_cudnn_sdp(name == "cudnn")
    backends.enable_flash_sdp(name == "flash" or name in PACKAGES)
    backends.enable_mem_efficient_sdp(name == "efficient")
    backends.enable_math_sdp(name == "math")


def _allow_all() -> None:
    backends = torch.backends.cuda
    for enable in (
        backends.enable_cudnn_sdp,
        backends.enable_flash_sdp,
        backends.enable_mem_efficient_sdp,
        backends.enable_math_sdp,
    ):
        enable(True)
    # Older versions of torch have a single flash attention.
    current = getattr(attention, "current_flash_attention_impl", None)
    if current is not None and current() is not None:
        attention.restore_flash_attention_impl()


def _is_usable(name: str | None) -> bool:
    return name is not None and (name not in PACKAGES or _find_problem(name) is None)


def _find_problem(name: str) -> str | None:
    """Return why a kernel of `PACKAGES` cannot be used, or None."""
    try:
        _allow_only(name)
    except attention_timing.UNFIT as error:
        reason = " ".join(str(error).split())
        return f"needs the package {PACKAGES[name]}, for {GPUS[name]}: {reason}"
    finally:
        _allow_all()
    return None


def _candidates(config: RunConfig) -> tuple[str, ...]:
    return MASKED if config.is_masked else UNMASKED


def _fastest(config: RunConfig, choices: Choices, world: World) -> str | None:
    """Return the kernel with the fastest forward and backward pass for this run's shape, if any
    runs."""
    try:
        work = _attention(config, choices, world)
        return attention_timing.fastest(_candidates(config), lambda name: _seconds(name, work))
    except torch.OutOfMemoryError:  # the first step will report which batch fits
        return None
    finally:
        _allow_all()


def _seconds(name: str, work: Callable[[], None]) -> float:
    """Return the GPU's seconds for a forward and backward pass with a kernel.

    Of several passes in a row: the launch of one would count as long as the GPU waits for it, which
    it does not within a step.
    """
    _allow_only(name)
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


def _attention(config: RunConfig, choices: Choices, world: World) -> Callable[[], None]:
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


def use_float8(model: nn.Module, config: DistributedConfig, device: torch.device) -> None:
    """Convert the matrices that match float8_filter to float8. Raises ConfigError."""
    if config.float8_recipe is None:
        return
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError("run", [f"{NO_TORCHAO}: {error}"]) from None
    settings = Float8LinearConfig.from_recipe_name(config.float8_recipe)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(
            "run",
            [
                f"distributed.float8_recipe = {config.float8_recipe}: not supported by this GPU; "
                "expected compute capability 8.9 or newer"
            ],
        )
    chosen = re.compile(config.float8_filter)

    def converts(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and bool(chosen.search(name)) and _fits_float8(module)

    convert_to_float8_training(model, config=settings, module_filter_fn=converts)


def _fits_float8(module: nn.Linear) -> bool:
    """Say whether both sides of a matrix are multiples of 16, as float8 matmuls require."""
    return module.in_features % 16 == 0 and module.out_features % 16 == 0
