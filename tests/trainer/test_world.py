"""The device of a process: that of the settings, or an error."""

import socket

import pytest
import torch

from tests.trainer.conftest import Runs, read_records
from trainer.problems import ConfigError
from trainer.world import get_world


def fake_gpus(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(names))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: names[index])
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)


def test_a_gpu_other_than_the_clusters_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on an H100 was published as H200, with 1.59 of what that reaches."""
    fake_gpus(monkeypatch, "NVIDIA H100 80GB HBM3")
    with pytest.raises(ConfigError, match=r"gpu_name = H200: found NVIDIA H100 80GB HBM3"):
        get_world("cuda", "H200")
    assert get_world("cuda", "H100").device.type == "cuda"
    assert get_world("cuda").device.type == "cuda"


def test_each_process_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, "NVIDIA H200")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="found 1 GPUs for 2 processes") as caught:
        get_world("cuda")
    assert str(caught.value).startswith(f"run, on {socket.gethostname()}: 1 problem")


def test_each_process_takes_the_gpu_of_its_place_on_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_gpus(monkeypatch, "NVIDIA H200", "NVIDIA H200", "NVIDIA T400")
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    ranks = {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in ranks.items():
        monkeypatch.setenv(name, f"{value}")
    assert get_world("cuda", "H200").device == torch.device("cuda", 1)
    assert taken == [torch.device("cuda", 1)]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="found NVIDIA T400"):
        get_world("cuda", "H200")


def test_a_gpu_that_torch_cannot_use_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver that is too old: NVML counts it."""
    fake_gpus(monkeypatch, "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU here"):
        get_world("cuda")


def test_a_cpu_run_ignores_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_gpus(monkeypatch, "NVIDIA H200")
    assert get_world("cpu").device.type == "cpu"


def test_a_world_has_torchruns_ranks_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight processes, four on each of two machines; two at a time share their samples."""
    ranks = {"RANK": 4, "WORLD_SIZE": 8, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 4}
    for name, value in ranks.items():
        monkeypatch.setenv(name, f"{value}")
    world = get_world("cpu", tp_size=2, timeout_s=45)
    assert (world.rank, world.size, world.local_rank, world.nodes) == (4, 8, 0, 2)
    assert not world.is_main  # one process of the run is, not one of each machine
    assert (world.tp_size, world.data_rank, world.data_size) == (2, 2, 4)
    assert world.timeout.total_seconds() == 45


def test_a_gpu_run_without_a_gpu_is_rejected(runs: Runs) -> None:
    """It trained on the processor, and the table said H200."""
    done = runs.run("device=cuda", "gpu_name=H200", check=False)
    assert done.returncode == 1
    assert "device = cuda: torch finds no GPU here; expected one, or device: cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert not runs.out().joinpath("metrics.jsonl").exists()


def test_a_run_uses_the_threads_of_its_settings(runs: Runs) -> None:
    runs.run("steps=2", "distributed.threads=2", "eval=null", OMP_NUM_THREADS="1")
    from trainer.folder.run_file import find_summary

    summary = find_summary(runs.out())
    assert summary is not None
    assert summary.choices.threads == 2
    assert [record["global_step"] for record in read_records(runs.out())] == [1, 2]
