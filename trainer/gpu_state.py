"""Clock, power, memory and throttling of a GPU, read with NVML. Imports no torch; changes nothing.

Needs the package nvidia-ml-py; without it, or without a driver, there is nothing to read.
"""

import functools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, TypeVar

from trainer.records import GpuConditions

Answer = TypeVar("Answer")

NAMES = ("GPU-", "MIG-")
"""What names of GPUs and of their parts begin with."""

REASONS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "temperature",
    0x40: "temperature",
    0x80: "power brake",
}
"""Bit of NVML's clocksEventReasons -> what lowers the clock (nvmlClocksEventReasons)."""


@dataclass(frozen=True)
class GpuState:
    """A GPU at one moment."""

    clock_mhz: int
    """Clock of the multiprocessors."""
    power_limit_w: float
    """Enforced power limit."""
    limits: tuple[str, ...]
    """What lowers the clock, values of `REASONS`."""
    power_w: float | None = None
    """Power draw; None if the GPU does not tell."""
    used_gib: float | None = None
    """Memory in use by all processes, GiB; None if the GPU does not tell."""

    @property
    def limits_text(self) -> str:
        """What lowers the clock, for a line of text; empty if nothing does."""
        return f" ({', '.join(self.limits)})" if self.limits else ""


def is_gpu(found: str, wanted: str) -> bool:
    """Say whether a GPU's name contains the wanted words; GH200 does not contain the word H200.

    A slice of a GPU (MIG) does not match a full one.
    """
    words, expected = (re.findall(r"[a-z0-9.]+", name.lower()) for name in (found, wanted))
    return set(expected) <= set(words) and ("mig" in words) == ("mig" in expected)


def describe_other(found: str | None, wanted: str | None) -> str | None:
    """Return the problem if a GPU is known and not the wanted one; see `is_gpu`."""
    if found is None or wanted is None or is_gpu(found, wanted):
        return None
    return f"gpu_name = {wanted}: found {found}; expected a GPU with these words in its name"


def find_visible(visible: str | None) -> list[str]:
    """Return the GPUs of this machine that a process may use, named as in `read`.

    `visible` is CUDA_VISIBLE_DEVICES: indices or names of GPUs; None for all.
    """
    plain = [name.removeprefix("GPU-") for name in _ask(_uuids) or []]
    if visible is None:
        return plain
    found = []
    for word in visible_words(visible, len(plain)):
        if word.isdecimal():
            found += plain[int(word) : int(word) + 1]
        else:
            found += [name for name in plain if name.startswith(word.removeprefix("GPU-"))]
    return found


def visible_words(visible: str, count: int) -> list[str]:
    """Return the indices and names that CUDA_VISIBLE_DEVICES lists on a machine with `count` GPUs.

    CUDA ignores what follows an invalid one, such as -1 (CUDA C++ Programming Guide, "CUDA
    Environment Variables"). Names are those of GPUs, or of parts of them (MIG).
    """

    def is_valid(word: str) -> bool:
        return int(word) < count if word.isdecimal() else word.startswith(NAMES)

    return list(takewhile(is_valid, map(str.strip, visible.split(","))))


def name_of(uuid: str) -> str | None:
    """Return the name of a GPU, as torch has it; None if unknown."""
    return _ask(lambda nvml: str(nvml.nvmlDeviceGetName(_handle(nvml, uuid))))


def read(uuid: str) -> GpuState | None:
    """Return the state of a GPU, named as in torch's device properties; None if unknown."""
    return _ask(lambda nvml: _state(nvml, _handle(nvml, uuid)))


def read_driver() -> str | None:
    """Return the version of the NVIDIA driver; None if unknown."""
    return _ask(lambda nvml: str(nvml.nvmlSystemGetDriverVersion()))


def _uuids(nvml: Any) -> list[str]:
    count = nvml.nvmlDeviceGetCount()
    return [str(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(i))) for i in range(count)]


def _handle(nvml: Any, uuid: str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def _state(nvml: Any, handle: Any) -> GpuState:
    bits = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return GpuState(
        clock_mhz=nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        power_limit_w=nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        limits=tuple(dict.fromkeys(text for bit, text in REASONS.items() if bits & bit)),
        power_w=_ask(lambda nvml: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        used_gib=_ask(lambda nvml: nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30),
    )


class GpuMeter:
    """The state of a GPU over a run, sampled at records."""

    EVERY_S = 2.0
    """Least time between samples: one takes up to a millisecond."""

    def __init__(self, uuid: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`uuid` is None on a CPU, where nothing is sampled."""
        self._uuid, self._clock = uuid, clock
        self._next = clock()
        self._states: list[GpuState] = []

    def sample(self) -> None:
        """Read the GPU's state, if the last sample is old enough."""
        if self._uuid is None or self._clock() < self._next:
            return
        state = read(self._uuid)
        if state is None:
            self._uuid = None
            return
        self._states.append(state)
        self._next = self._clock() + self.EVERY_S

    @property
    def clock_mhz(self) -> float | None:
        """Clock of the multiprocessors in the last sample; None without any."""
        return self._states[-1].clock_mhz if self._states else None

    @property
    def conditions(self) -> GpuConditions | None:
        """The states so far; None without any."""
        if not self._states:
            return None
        clocks = [state.clock_mhz for state in self._states]
        powers = [state.power_w for state in self._states if state.power_w is not None]
        return GpuConditions(
            clock_mhz=sum(clocks) / len(clocks),
            clock_mhz_min=min(clocks),
            clock_mhz_max=max(clocks),
            power_limit_w=self._states[-1].power_limit_w,
            power_w=sum(powers) / len(powers) if powers else None,
            limits=tuple(sorted({text for state in self._states for text in state.limits})),
        )

    @property
    def peak_memory_gib(self) -> float | None:
        """Most memory in use in a sample, GiB; None if unknown."""
        used = [state.used_gib for state in self._states if state.used_gib is not None]
        return max(used, default=None)


def _ask(question: Callable[[Any], Answer]) -> Answer | None:
    """Return what NVML answers; None if there is no NVML, or it does not tell."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        return question(nvml)
    except nvml.NVMLError:
        return None


@functools.cache
def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
