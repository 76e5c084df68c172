"""The machine a process runs on: the cores it really has, and what its processor can do.

Imports no torch.
"""

import ctypes
import math
import os
import platform
from functools import cache
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CPUINFO = Path("/proc/cpuinfo")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): free bytes at the heap's end that are given back, bytes that are taken apart."""

MIN_CORES_PER_GPU = 2
"""Below this a GPU's process shares its core with its own data thread and NCCL's."""


def count_cores() -> int:
    """Return the cores of this process: those it may run on, and no more than its cgroup's quota.

    A container may see 64 cores and have the time of two.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cgroup_quota(root: Path = CGROUP) -> float | None:
    """Return the cores' worth of time that the cgroup gives (v2, then v1); None without a limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        given = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
        return given / period_us if given > 0 else None
    except (OSError, ValueError):
        return None


def threads_per_rank(cores: int, ranks: int) -> int:
    """Return the threads of each of `ranks` processes that share a machine's cores."""
    return max(1, cores // ranks)


@cache
def processor(path: Path = CPUINFO) -> dict[str, str]:
    """Return the first processor's fields in /proc/cpuinfo; empty where there is none."""
    try:
        first = path.read_text().split("\n\n")[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def processor_name() -> str:
    """Return the processor's name for people."""
    return processor().get("model name", platform.machine())


def _features(fields: dict[str, str]) -> set[str]:
    return set(fields.get("flags", fields.get("Features", "")).split())


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees (mallopt(3)); glibc alone offers it.

    A step frees and takes the same hundreds of megabytes as the one before. Without, the system
    takes them back and hands them out as zeroed pages, at a page fault each.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)


def has_bf16(fields: dict[str, str]) -> bool:
    """Say whether a processor multiplies bf16 itself; without, bf16 is many times slower."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _features(fields))


def mkl_is_slow(fields: dict[str, str]) -> bool:
    """Say whether MKL leaves AVX-512 unused: it does on processors that are not Intel's.

    There oneDNN's fp32 products are about twice as fast.
    """
    return "avx512f" in _features(fields) and fields.get("vendor_id") != "GenuineIntel"


def find_complaint(device: str, cores: int, local_ranks: int) -> str | None:
    """Say what is wrong with the cores that a machine's processes share; None where nothing is."""
    if device == "cpu" and local_ranks > cores:
        return (
            f"{local_ranks} processes train on {cores} CPU cores: they wait for each other; "
            f"{cores} processes or fewer are faster"
        )
    if device != "cpu" and cores < MIN_CORES_PER_GPU * local_ranks:
        return (
            f"{local_ranks} GPUs share {cores} CPU cores: with fewer than {MIN_CORES_PER_GPU} for "
            "each the GPUs wait for Python; ask for more (cpus_per_gpu, --cpus-per-task)"
        )
    return None
