"""Makes torch and the model use the kernels of a run: attention, fp32 matmuls on a CPU, Triton."""

import torch
from torch.nn import attention

from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.model.block import Attention, FeedForward
from trainer.model.linear import Linear
from trainer.model.model import Transformer
from trainer.problems import ConfigError

PACKAGES = {"fa3": "flash_attn_3", "fa4": "flash-attn-4"}
"""Attention kernel -> the package that it needs."""

GPUS = {"fa3": "GPUs like the H100", "fa4": "GPUs from the H100 on"}
"""Attention kernel of a package -> what it runs on."""

UNFIT = (RuntimeError, ValueError, ImportError, AttributeError)
"""Exceptions of a kernel that is missing, or does not support the shape or the GPU; torch has no
single one."""


def check(config: RunConfig) -> None:
    """Raise ConfigError if a run names an attention kernel that is not installed."""
    wanted = config.distributed.attention
    problem = _find_problem(wanted) if wanted in PACKAGES else None
    if problem is not None:
        raise ConfigError("run", [f"distributed.attention = {wanted}: {problem}"])


def use(choices: Choices, model: Transformer) -> None:
    """Make torch and the model use the chosen kernels."""
    assert choices.attention is not None, "chosen by choose_attention"
    model.masks_blocks = choices.attention == "flex"
    if choices.attention in ("torch", "flex"):  # flex is not one of SDPA's kernels
        allow_all()
    else:
        allow_only(choices.attention)
    fast_cpu = choices.cpu_matmul == "onednn"
    for module in model.modules():
        if isinstance(module, Linear):
            module.fast_cpu = fast_cpu
        elif isinstance(module, Attention | FeedForward):
            module.one_kernel = choices.fused_pointwise and module.fits_kernel


def allow_only(name: str) -> None:
    """Enable a single attention kernel for the whole process, so that compiled code uses it."""
    allow_all()
    if name in PACKAGES:
        attention.activate_flash_attention_impl(name.upper())
    backends = torch.backends.cuda  # its switches apply to the CPU too
    backends.enable_cudnn_sdp(name == "cudnn")
    backends.enable_flash_sdp(name == "flash" or name in PACKAGES)
    backends.enable_mem_efficient_sdp(name == "efficient")
    backends.enable_math_sdp(name == "math")


def allow_all() -> None:
    """Let torch choose among all its attention kernels again."""
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


def is_usable(name: str | None) -> bool:
    """Say whether an attention kernel is named and, if it needs a package, that is installed."""
    return name is not None and (name not in PACKAGES or _find_problem(name) is None)


def _find_problem(name: str) -> str | None:
    """Return why a kernel of `PACKAGES` cannot be used, or None."""
    try:
        allow_only(name)
    except UNFIT as error:
        reason = " ".join(str(error).split())
        return f"needs the package {PACKAGES[name]}, for {GPUS[name]}: {reason}"
    finally:
        allow_all()
    return None
