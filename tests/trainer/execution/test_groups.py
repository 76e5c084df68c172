"""The process groups of a run: a collective that hangs fails after `distributed.timeout_s`."""

import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from trainer.config import DistributedConfig
from trainer.execution.layout_sharded import build_mesh
from trainer.folder.checkpoint import Saver
from trainer.world import World


def timeout_of(group: dist.ProcessGroup) -> datetime.timedelta:
    timeout: datetime.timedelta = group._get_backend(torch.device("cpu")).options._timeout
    return timeout


def test_every_group_has_the_timeout_of_the_settings(tmp_path: Path) -> None:
    """Those of a mesh and of checkpoints do not inherit it, and torch's default is half an hour."""
    world = World(0, 1, 0, 1, torch.device("cpu"), timeout_s=45)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{tmp_path}/meeting",
        rank=0,
        world_size=1,
        timeout=world.timeout,
    )
    try:
        mesh = build_mesh(DistributedConfig(fsdp_type="full_shard"), world)
        groups = mesh.get_all_groups()
        assert len(groups) == 3
        two = World(0, 2, 0, 2, torch.device("cpu"), timeout_s=45)
        group = Saver(tmp_path, None, two)._group
        assert group is not None
        for found in (*groups, group):
            assert timeout_of(found) == datetime.timedelta(seconds=45)
    finally:
        dist.destroy_process_group()


def test_a_background_save_opens_no_context_on_another_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new thread's current device is GPU 0."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    saver = Saver(tmp_path, None, World(0, 1, 0, 1, torch.device("cuda", 3)))
    monkeypatch.setattr(saver, "_write", lambda *arguments: None)
    saver._write_async({}, None, [])  # type: ignore[arg-type]
    assert chosen == [torch.device("cuda", 3)]
