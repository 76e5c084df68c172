"""The attention kernels of torch's scaled_dot_product_attention: which are enabled, for the whole
process."""

import torch
from torch.nn import attention

_CUDA = torch.backends.cuda  # its switches apply to the CPU too

SWITCHES = {
    "cudnn": (_CUDA.cudnn_sdp_enabled, _CUDA.enable_cudnn_sdp),
    "flash": (_CUDA.flash_sdp_enabled, _CUDA.enable_flash_sdp),
    "efficient": (_CUDA.mem_efficient_sdp_enabled, _CUDA.enable_mem_efficient_sdp),
    "math": (_CUDA.math_sdp_enabled, _CUDA.enable_math_sdp),
}
"""Kernel -> functions that say whether it is enabled, and that enable or disable it."""

PACKAGES = {"fa3": "flash_attn_3", "fa4": "flash-attn-4"}
"""Kernel that takes the place of torch's flash attention -> the package that it needs."""

GPUS = {"fa3": "GPUs like the H100", "fa4": "GPUs from the H100 on"}
"""Kernel of a package -> what it runs on."""

UNFIT = (RuntimeError, ValueError, ImportError, AttributeError)
"""Exceptions of a kernel that is missing, or does not support the shape or the GPU; torch has no
single one."""


def enabled() -> list[str]:
    """Return the enabled kernels of `SWITCHES`."""
    return [name for name, (is_enabled, _) in SWITCHES.items() if is_enabled()]


def flash_package() -> str | None:
    """Return the kernel of `PACKAGES` in torch's name for it, FA3 or FA4; None: torch's own."""
    # Older versions of torch have a single flash attention.
    current = getattr(attention, "current_flash_attention_impl", None)
    return current() if current is not None else None


def allow_only(name: str) -> None:
    """Enable a single kernel, so that compiled code uses it too. Raises one of `UNFIT`."""
    allow_all()
    if name in PACKAGES:
        attention.activate_flash_attention_impl(name.upper())
    for kernel, (_, enable) in SWITCHES.items():
        enable(kernel == ("flash" if name in PACKAGES else name))


def allow_all() -> None:
    """Let torch choose among its own kernels again."""
    for _, enable in SWITCHES.values():
        enable(True)
    if flash_package() is not None:
        attention.restore_flash_attention_impl()


def is_usable(name: str | None) -> bool:
    """Say whether a kernel is named and, if it needs a package, that is installed."""
    return name is not None and find_problem(name) is None


def find_problem(name: str) -> str | None:
    """Return why a kernel of `PACKAGES` cannot be used; None if it can, and for all others."""
    if name not in PACKAGES:
        return None
    try:
        allow_only(name)
    except UNFIT as error:
        reason = " ".join(str(error).split())
        return f"needs the package {PACKAGES[name]}, for {GPUS[name]}: {reason}"
    finally:
        allow_all()
    return None
