"""Which kernels a run uses: of attention, of fp32 products on a CPU, and float8.

What is chosen by measuring is chosen once: it stands in run.json, and a run that goes on keeps it,
so that an interruption changes no bit of its losses.
"""

import re
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import attention

from trainer import host
from trainer.config import ConfigError, DistributedConfig, RunConfig
from trainer.linear import Linear
from trainer.parallel import World, agree, precision, resolve_dtype

CHOICES = ("torch", "cudnn", "fa3", "flash", "efficient", "math")
"""Kernels of attention; `torch` is its own choice."""

MASKED = ("cudnn", "efficient", "math")
"""Kernels of attention that take a mask."""

ON_CPU = ("auto", "flash", "math")
"""Kernels of attention that a CPU has."""

REPEATS = 5
"""Timings of each kernel; the median counts."""


def check(config: RunConfig, device: torch.device) -> None:
    """Raise ConfigError where a run names a kernel that its device or its mask cannot have."""
    wanted = config.distributed.attention
    masked = config.data.document_mask or config.model.sliding_window is not None
    problem = None
    if device.type == "cpu" and wanted not in ON_CPU:
        problem = f"not on a CPU; expected one of {', '.join(ON_CPU)}"
    elif device.type != "cpu" and masked and wanted not in ("auto", *MASKED):
        problem = f"takes no mask; expected one of auto, {', '.join(MASKED)}"
    if problem is not None:
        raise ConfigError("run", [f"distributed.attention = {wanted}: {problem}"])


def agree_on(config: RunConfig, world: World, kept: dict[str, str] | None = None) -> dict[str, str]:
    """Return the kernels of a run, rank 0's on all ranks; `kept` are those it has used so far."""
    kept = kept or {}
    chosen = {"attention": config.distributed.attention, "cpu_products": _products(config, world)}
    if world.device.type == "cpu" and chosen["attention"] == "auto":
        chosen["attention"] = "torch"  # its own choice depends on nothing but the shape
    elif chosen["attention"] == "auto":
        found = kept.get("attention") or _fastest(config, world)
        chosen["attention"] = CHOICES[agree(CHOICES.index(found), world)]
    return chosen


def use(kernels: dict[str, str], model: nn.Module) -> None:
    """Make torch and the model use what was chosen."""
    if kernels["attention"] != "torch":
        _allow_only(kernels["attention"])
    fast_cpu = kernels["cpu_products"] == "onednn"
    for module in model.modules():
        if isinstance(module, Linear):
            module.fast_cpu = fast_cpu


def _products(config: RunConfig, world: World) -> str:
    wanted = config.distributed.cpu_products
    if world.device.type != "cpu" or resolve_dtype(config.distributed, world.device) != "fp32":
        return "torch"
    if world.tp_size > 1 or not torch.backends.mkldnn.is_available():
        return "mkl"
    if wanted == "auto":
        return "onednn" if host.mkl_is_slow(host.processor()) else "mkl"
    return wanted


def _allow_only(name: str) -> None:
    """Leave torch one kernel of attention, for the whole process, so that compiled code sees it."""
    _allow_all()
    if name == "fa3":
        attention.activate_flash_attention_impl("FA3")
    backends = torch.backends.cuda  # its switches count on a CPU too
    backends.enable_cudnn_sdp(name == "cudnn")
    backends.enable_flash_sdp(name in ("flash", "fa3"))
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
    # Older versions of torch have one flash attention, and nothing to choose it by.
    current = getattr(attention, "current_flash_attention_impl", None)
    if current is not None and current() is not None:
        attention.restore_flash_attention_impl()


def _fastest(config: RunConfig, world: World) -> str:
    """Return the kernel with the shortest forward and backward pass for this run's shape."""
    masked = config.data.document_mask or config.model.sliding_window is not None
    names = MASKED if masked else ("cudnn", "fa3", "flash", "efficient")
    seconds = {name: _seconds(name, config, world) for name in names}
    found = {name: value for name, value in seconds.items() if value is not None}
    return min(found, key=lambda name: found[name]) if found else "torch"


def _seconds(name: str, config: RunConfig, world: World) -> float | None:
    """Return the median seconds of forward and backward; None where the kernel cannot do it."""
    try:
        _allow_only(name)
        work = _attention(config, world)
        for _ in range(3):
            work()
        times = []
        for _ in range(REPEATS):
            torch.accelerator.synchronize()
            start = time.perf_counter()
            work()
            torch.accelerator.synchronize()
            times.append(time.perf_counter() - start)
    # A kernel may be missing, or unfit for the shape or the card; torch has no one error for it.
    except (RuntimeError, ValueError, ImportError, AttributeError):
        return None
    finally:
        _allow_all()
    return statistics.median(times)


def _attention(config: RunConfig, world: World) -> Callable[[], None]:
    """Return a forward and backward pass of attention in the run's shape, on one layer."""
    model, data = config.model, config.data
    heads, kv_heads = model.n_heads // world.tp_size, model.kv_heads // world.tp_size
    dtype = (
        torch.bfloat16
        if resolve_dtype(config.distributed, world.device) == "bf16"
        else torch.float32
    )
    made = [
        torch.randn(
            (data.batch_size, data.seq_len, count, model.head_dim),
            dtype=dtype,
            device=world.device,
            requires_grad=True,
        )
        for count in (heads, kv_heads, kv_heads)
    ]
    mask = None
    if data.document_mask or model.sliding_window is not None:
        mask = torch.ones(
            (data.batch_size, 1, data.seq_len, data.seq_len), dtype=torch.bool, device=world.device
        ).tril()

    def work() -> None:
        q, k, v = (tensor.transpose(1, 2) for tensor in made)
        with precision(config.distributed, world.device):
            mixed = F.scaled_dot_product_attention(
                q, k, v, mask, is_causal=mask is None, enable_gqa=heads != kv_heads
            )
        mixed.sum().backward()

    return work


def use_float8(model: nn.Module, config: DistributedConfig, device: torch.device) -> None:
    """Turn the matrices that float8_filter finds into float8 ones. Raises ConfigError."""
    if config.float8_recipe is None:
        return
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise ConfigError(
            "run", [f"distributed.float8_recipe: needs torchao (pip install torchao): {error}"]
        ) from None
    settings = Float8LinearConfig.from_recipe_name(config.float8_recipe)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ConfigError(
            "run",
            [
                f"distributed.float8_recipe = {config.float8_recipe}: the device has no float8; "
                "expected a GPU of compute capability 8.9 or newer"
            ],
        )
    chosen = re.compile(config.float8_filter)

    def converts(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and bool(chosen.search(name)) and _is_whole(module)

    convert_to_float8_training(model, config=settings, module_filter_fn=converts)


def _is_whole(module: nn.Linear) -> bool:
    """Say whether a matrix has sides that float8 products take: multiples of 16."""
    return module.in_features % 16 == 0 and module.out_features % 16 == 0
