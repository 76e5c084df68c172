"""What a GPU's peak of memory is counted from, if weights are sharded."""

import pytest
import torch
from torch import nn

from trainer.config import DistributedConfig
from trainer.execution import layout_sharded
from trainer.execution.choices import Choices
from trainer.execution.layout import parallelize
from trainer.world import World

EAGER = Choices("fp32", False, False, 0, "mkl", 1, attention=None)


@pytest.mark.parametrize(("processes", "calls"), [(2, ["shard", "free", "reset 1"]), (1, [])])
def test_the_whole_model_does_not_count(
    monkeypatch: pytest.MonkeyPatch, processes: int, calls: list[str]
) -> None:
    """Each GPU has it until it is sharded. One GPU keeps it."""
    done: list[str] = []
    monkeypatch.setattr(layout_sharded, "build_mesh", lambda *given: "mesh")
    monkeypatch.setattr(layout_sharded, "shard", lambda *given: done.append("shard"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("free"))
    reset = "reset_peak_memory_stats"
    monkeypatch.setattr(torch.cuda, reset, lambda device: done.append(f"reset {device.index}"))
    world = World(0, processes, 1, processes, torch.device("cuda", 1))
    parallelize(nn.Module(), DistributedConfig(fsdp_type="full_shard"), EAGER, world)
    assert done == calls
