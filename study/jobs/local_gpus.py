"""The GPUs of this machine, counted without torch."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from trainer.gpu_state import visible_words

AMD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
"""The processors that AMD's driver knows, each with a gpu_id, which is 0 of a CPU."""

VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
"""What limits the GPUs that a process sees; AMD's runtime reads all three, NVIDIA's the last."""


def count_gpus() -> int:
    """Return the number of this machine's GPUs that a run started here may use."""
    count = _count_nvidia() or _count_amd()
    for variable in VISIBLE if AMD_NODES.exists() else VISIBLE[-1:]:
        visible = os.environ.get(variable)
        if visible is not None:
            count = len(visible_words(visible, count))
    return count


def _count_nvidia() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _count_amd() -> int:
    count = 0
    for file in AMD_NODES.glob("*/gpu_id"):
        with contextlib.suppress(OSError):  # a container may hide some
            count += file.read_text().strip() != "0"
    return count
