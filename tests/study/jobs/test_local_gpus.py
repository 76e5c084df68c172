from collections.abc import Callable
from pathlib import Path

import pytest

from study.jobs import local_gpus

LISTED = "echo 'GPU 0: H200 (UUID: a)'; echo '  MIG 1g.18gb'; echo 'GPU 1: H200 (UUID: b)'"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPUs, where no variable limits them; its programs are in the folder."""
    monkeypatch.setattr(local_gpus, "AMD_NODES", tmp_path / "nodes")
    monkeypatch.setenv("PATH", str(tmp_path))  # a GPU machine has nvidia-smi elsewhere
    for variable in local_gpus.VISIBLE:
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def add_nvidia(machine: Path, script: str = LISTED) -> None:
    (machine / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (machine / "nvidia-smi").chmod(0o755)


def add_amd(machine: Path) -> None:
    """Add a CPU, two GPUs, and one that a container hides."""
    for index, gpu_id in enumerate((0, 28851, 23018)):
        (machine / f"nodes/{index}").mkdir(parents=True)
        (machine / f"nodes/{index}/gpu_id").write_text(f"{gpu_id}\n")
    (machine / "nodes/3/gpu_id").mkdir(parents=True)  # cannot be read


@pytest.mark.parametrize(
    ("visible", "count"),
    [
        (None, 2),
        ("0", 1),
        ("1, 0", 2),
        ("", 0),
        ("0,2", 1),
        ("0,2,1", 1),
        ("-1", 0),
        ("NoDevFiles", 0),
        ("GPU-8f1c", 1),
        ("MIG-1,MIG-2", 2),
    ],
)
@pytest.mark.parametrize(
    ("add", "variables"),
    [
        (add_nvidia, ["CUDA_VISIBLE_DEVICES"]),
        (add_amd, ["ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"]),
    ],
)
def test_gpus_that_a_run_may_use(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    add: Callable[[Path], None],
    variables: list[str],
    visible: str | None,
    count: int,
) -> None:
    add(machine)
    for variable in variables:
        with monkeypatch.context() as patched:
            if visible is not None:
                patched.setenv(variable, visible)
            assert local_gpus.count_gpus() == count


def test_a_variable_of_amd_limits_no_gpus_of_nvidia(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_nvidia(machine)
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    assert local_gpus.count_gpus() == 2


def test_without_a_driver_there_are_no_gpus(machine: Path) -> None:
    assert local_gpus.count_gpus() == 0
    add_nvidia(machine, "echo 'NVIDIA-SMI has failed'; exit 9")
    assert local_gpus.count_gpus() == 0
