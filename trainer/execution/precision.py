"""Number formats: torch's settings for the process, and autocast for the forward pass."""

import contextlib

import torch

from trainer.config import DistributedConfig
from trainer.execution.choices import Dtype

DTYPES: dict[Dtype, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
"""Name of a number format in the settings -> torch's."""


def set_arithmetic(settings: DistributedConfig) -> None:
    """Set torch's numeric options, which are global to the process."""
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = settings.matmul_allow_tf32
    matmul.allow_bf16_reduced_precision_reduction = settings.allow_bf16_reduced_precision_reduction
    torch.autograd.set_detect_anomaly(settings.detect_anomaly)


def precision(dtype: Dtype, device: torch.device) -> contextlib.AbstractContextManager:
    """Return the context of the forward pass: bf16 autocast over fp32 weights, or plain fp32."""
    if dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[dtype])
