"""This machine: the cores and the memory available to a process, and the processor's features.

Imports no torch.
"""

import ctypes
import math
import os
import platform
from functools import cache
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CGROUP_MEMORY = ("memory.max", "memory/memory.limit_in_bytes")
"""Files of the memory limit: v2, v1."""
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""mallopt(3): free bytes at the heap's end from which they are returned to the OS, and size from
which an allocation is a mapping of its own."""

MIN_CORES_PER_GPU = 2
"""Below this, a GPU's process shares its core with its data thread and NCCL's."""


def count_cores() -> int:
    """Return the cores that this process may run on, at most its cgroup's quota.

    A container may see 64 cores but get the CPU time of two.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cgroup_quota(root: Path = CGROUP) -> float | None:
    """Return the cgroup's CPU quota in cores (v2, then v1); None if there is no limit."""
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


def start_ticks(pid: int) -> int:
    """Return when a process started, in clock ticks since boot (proc(5), field 22 of stat).

    Raises OSError if it does not run.
    """
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[19])


def memory_bytes(meminfo: Path = MEMINFO, root: Path = CGROUP) -> int | None:
    """Return the bytes of RAM and swap space, at most the cgroup's limit; None if not known."""
    sizes = _memory_sizes(meminfo)
    limits = [_cgroup_memory(root / name) for name in CGROUP_MEMORY]
    known = [size for size in (sum(sizes) if sizes else None, *limits) if size is not None]
    return min(known, default=None)


def _memory_sizes(meminfo: Path) -> list[int]:
    """Return the bytes of RAM and of swap space, from a file as /proc/meminfo (proc(5))."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return []
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    return [int(fields[name][0]) * 1024 for name in ("MemTotal", "SwapTotal") if name in fields]


def _cgroup_memory(path: Path) -> int | None:
    """Return a cgroup's limit in bytes; None if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None


@cache
def processor() -> dict[str, str]:
    """Return the first processor's fields in /proc/cpuinfo; empty if the file is missing."""
    try:
        first = CPUINFO.read_text().split("\n\n")[0]
    except OSError:
        return {}
    fields = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def processor_name() -> str:
    """Return the processor's model name."""
    return processor().get("model name", platform.machine())


def _features(fields: dict[str, str]) -> set[str]:
    return set(fields.get("flags", fields.get("Features", "")).split())


def keep_freed_memory() -> None:
    """Keep freed memory in this process's allocator (mallopt(3)); does nothing without glibc.

    Each step frees and allocates the same hundreds of megabytes. By default they go back to the OS,
    which returns them as zeroed pages at a page fault each.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 2**25), (M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)


def has_bf16(fields: dict[str, str]) -> bool:
    """Say whether a processor has bf16 instructions; without them bf16 is many times slower."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _features(fields))


def mkl_is_slow(fields: dict[str, str]) -> bool:
    """Say whether MKL leaves AVX-512 unused, as it does on processors other than Intel's.

    There oneDNN's fp32 matmuls are about twice as fast.
    """
    return "avx512f" in _features(fields) and fields.get("vendor_id") != "GenuineIntel"


def find_complaint(device: str, cores: int, local_ranks: int) -> str | None:
    """Return a warning if a machine has too few cores for its processes, else None."""
    if device == "cpu" and local_ranks > cores:
        return (
            f"{local_ranks} processes share {cores} CPU cores and wait for each other; "
            f"{cores} processes or fewer are faster"
        )
    if device != "cpu" and cores < MIN_CORES_PER_GPU * local_ranks:
        return (
            f"{local_ranks} GPUs share {cores} CPU cores; with fewer than {MIN_CORES_PER_GPU} per "
            "GPU they wait for Python; request more (cpus_per_gpu, --cpus-per-task)"
        )
    return None
