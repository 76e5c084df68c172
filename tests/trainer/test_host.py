import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import host

ZEN = {"vendor_id": "AuthenticAMD", "flags": "fpu avx2 avx512f avx512_bf16"}
SKYLAKE = {"vendor_id": "GenuineIntel", "flags": "fpu avx2 avx512f"}
GRAVITON = {"Features": "fp asimd bf16"}


def test_cores_are_those_of_the_process_affinity() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{one}])\n"
        "from trainer import host; print(host.count_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (
            {
                "cpu.max": "max 100000\n",
                "cpu/cpu.cfs_quota_us": "400000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({}, None),
    ],
    ids=["v2", "v2 without", "v1", "v1 without", "both", "no cgroup"],
)
def test_quota_of_the_cgroup(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host.cgroup_quota(tmp_path) == quota


MEMINFO = "MemTotal:       4096 kB\nMemFree:  1 kB\nSwapTotal:      1024 kB\n"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"meminfo": MEMINFO}, 5 << 20),
        ({"meminfo": "MemTotal: 4096 kB\n"}, 4 << 20),
        ({"meminfo": MEMINFO, "memory.max": "max\n"}, 5 << 20),
        ({"meminfo": MEMINFO, "memory.max": "1048576\n"}, 1 << 20),
        ({"meminfo": MEMINFO, "memory/memory.limit_in_bytes": "2097152\n"}, 2 << 20),
        # What v1 has where there is no limit.
        ({"meminfo": MEMINFO, "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 5 << 20),
        ({"memory.max": "1048576\n"}, 1 << 20),
        ({}, None),
    ],
    ids=["swap", "no swap", "v2 without", "v2", "v1", "v1 without", "cgroup alone", "neither"],
)
def test_memory_is_that_of_the_machine_or_of_the_cgroup(
    tmp_path: Path, files: dict[str, str], found: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host.memory_bytes(tmp_path / "meminfo", tmp_path) == found


def test_memory_of_this_machine() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host.memory_bytes(root=Path("nowhere")) >= physical


@pytest.mark.parametrize(
    ("quota", "cores"), [(None, 4), (2.0, 2), (2.7, 2), (0.5, 1), (9.0, 4), (1.5, 1)]
)
def test_cores_are_at_most_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cores: int
) -> None:
    """Of a process that may run on four."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 4, 6})
    monkeypatch.setattr(host, "cgroup_quota", lambda: quota)
    assert host.count_cores() == cores


def test_the_processor_is_the_first_one_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = "processor\t: 0\nmodel name\t: EPYC: 9654\nflags\t\t: fpu bf16\n"
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"{listed}\n{listed.replace('9654', '1')}")
    monkeypatch.setattr(host, "CPUINFO", cpuinfo)
    read = host.processor.__wrapped__  # without the cache
    fields = {"processor": "0", "model name": "EPYC: 9654", "flags": "fpu bf16"}
    assert read() == fields
    monkeypatch.setattr(host, "processor", read)
    assert host.processor_name() == "EPYC: 9654"
    cpuinfo.unlink()
    assert host.processor_name() == platform.machine()


@pytest.mark.parametrize(("fields", "has"), [(ZEN, True), (SKYLAKE, False), (GRAVITON, True)])
def test_processors_with_bf16(fields: dict[str, str], has: bool) -> None:
    assert host.has_bf16(fields) == has


@pytest.mark.parametrize(("fields", "slow"), [(ZEN, True), (SKYLAKE, False), (GRAVITON, False)])
def test_processors_on_which_mkl_is_slow(fields: dict[str, str], slow: bool) -> None:
    assert host.mkl_is_slow(fields) == slow


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "part"),
    [
        ("cpu", 2, 8, "8 processes share 2 CPU cores"),
        ("cuda", 8, 8, "8 GPUs share 8 CPU cores"),
        ("cuda", 4, 8, "8 GPUs share 4 CPU cores"),
        ("cpu", 2, 2, None),
        ("cuda", 16, 8, None),
    ],
)
def test_too_few_cores_are_reported(device: str, cores: int, ranks: int, part: str | None) -> None:
    complaint = host.find_complaint(device, cores, ranks)
    assert complaint is None if part is None else complaint is not None and part in complaint


def test_freed_memory_is_kept() -> None:
    """64 blocks of 1 MiB, freed: the system has them back; here the process keeps them."""
    code = (
        "import os; from pathlib import Path; from trainer import host; {call}\n"
        "def resident():\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "def take():\n"
        "    return [bytearray(2**20) for _ in range(64)]\n"
        "take()\n"
        "take()\n"
        "print(resident() * os.sysconf('SC_PAGE_SIZE') / 2**20)"
    )
    kept_mib = []
    for call in ("", "host.keep_freed_memory()"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(call=call)],
            capture_output=True,
            text=True,
            check=True,
        )
        kept_mib.append(float(done.stdout))
    assert kept_mib[1] > kept_mib[0] + 32
