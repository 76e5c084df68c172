"""GPUs that another trainer uses, sampled from outside with NVML: memory, power and clocks."""

import os
import socket

from trainer import gpu_state
from trainer.gpu_state import GpuMeter, describe_other
from trainer.problems import ConfigError
from trainer.records import GpuConditions


class GpuWatch:
    """The GPUs of this machine that a job may use, sampled every few seconds."""

    def __init__(self, device: str, count: int) -> None:
        """`count`: the run's GPUs. On a CPU, and without nvidia-ml-py, there is nothing to read."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        found = gpu_state.find_visible(visible)[:count] if device == "cuda" else []
        self.name = gpu_state.name_of(found[0]) if found else None
        """Name of the first GPU; None if unknown."""
        self._meters = [GpuMeter(uuid) for uuid in found]

    def check(self, wanted: str | None) -> None:
        """Raise ConfigError if the first GPU is known, and not one with the wanted words."""
        problem = describe_other(self.name, wanted)
        if problem is not None:
            raise ConfigError(f"run, on {socket.gethostname()}", [problem])

    def sample(self) -> None:
        """Read the GPUs, if the last sample is old enough."""
        for meter in self._meters:
            meter.sample()

    @property
    def conditions(self) -> GpuConditions | None:
        """Clock and power of the first GPU so far."""
        return self._meters[0].conditions if self._meters else None

    @property
    def peak_memory_gib(self) -> float | None:
        """Most memory in use on one of the GPUs, GiB, as sampled."""
        peaks = [meter.peak_memory_gib for meter in self._meters]
        return max((peak for peak in peaks if peak is not None), default=None)
