"""The work of a cell's step, and what it says of its layout."""

from dataclasses import replace
from typing import Any

import pytest

from study.workload import Workload, plan_dtype, workload
from tests.study.conftest import GUIDE, MakeGrid
from tests.study.estimate.workloads import SMALL


def test_the_workload_of_the_guides_cell_is_that_worked_out_by_hand(make_grid: MakeGrid) -> None:
    found = workload(make_grid(GUIDE)[0], "bf16")
    assert replace(found, unseen="") == replace(SMALL, compiled=True)
    assert workload(make_grid()[0]).gpus_per_node == 4


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"distributed": {"loss_chunk": 512}}, {"loss_chunk": 512}),
        ({"distributed": {"compile": False}}, {"compiled": False}),
        ({"distributed": {"tp_size": 2}}, {"tensor_parallel": 2}),
        ({"distributed": {"fsdp_type": "full_shard"}}, {"shard": 8, "sharding": "full"}),
        (
            {"distributed": {"fsdp_type": "full_shard", "dp_replicate": 2}},
            {"shard": 4, "sharding": "hybrid"},
        ),
        ({"grad_acc_steps": 3}, {"grad_acc_steps": 3}),
        ({"data": {"batch_size": 4, "seq_len": 1024}}, {"tokens": 4096, "seq_len": 1024}),
        ({"model": {"sliding_window": 256}}, {"sliding_window": 256}),
        ({"model": {"head_dim": 32}}, {"attention_dim": 256}),
        # a layer keeps 4 x 512, queries and keys of 512 each twice, and three times 1,536 values
        ({"model": {"qk_norm": True}}, {"kept_share": (8704 + 1024) / 8704}),
        ({"model": {"activation": "gelu"}}, {"kept_share": (8704 - 1536) / 8704}),
        ({"distributed": {"activation_checkpointing": "full"}}, {"recompute": "full"}),
    ],
)
def test_a_setting_changes_the_workload(
    make_grid: MakeGrid, changes: dict[str, Any], fields: dict[str, Any]
) -> None:
    block = {"cluster": "fast", "model": "small", "gpus": 8, "variant": "v"}
    found = workload(make_grid({**GUIDE, "variants": {"v": changes}, "grid": [block]})[0], "bf16")
    for name, value in fields.items():
        assert getattr(found, name) == pytest.approx(value), name


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"model": {"n_layers": 4, "dim": 256}}, True),
        ({"data": {"batch_size": 4, "seq_len": 1024}, "grad_acc_steps": 2}, True),
        ({"distributed": {"compile": False, "model_dtype": "fp32", "tp_size": 2}}, True),
        ({"distributed": {"fsdp_type": "full_shard"}}, True),
        ({"optim": {"lr": 0.5}}, True),
        ({"model": {"qk_norm": True}}, False),
        ({"distributed": {"attention": "math"}}, False),
        ({"data": {"document_mask": True}}, False),
    ],
)
def test_only_settings_that_no_term_shows_make_a_workload_another_kind(
    make_grid: MakeGrid, changes: dict[str, Any], alike: bool
) -> None:
    block = {"cluster": "fast", "model": "small", "gpus": 8, "variant": ["base", "v"]}
    base, changed = make_grid({**GUIDE, "variants": {"v": changes}, "grid": [block]})
    assert (workload(base).unseen == workload(changed).unseen) == alike


def test_an_optimizer_brings_its_costs(make_grid: MakeGrid) -> None:
    """Muon has one moment of the matrices in blocks, and AdamW's two of the 272,896 others."""
    changes = {"optim": {"name": "muon"}}
    block = {"cluster": "fast", "model": "small", "gpus": 8, "variant": "v"}
    found = workload(make_grid({**GUIDE, "variants": {"v": changes}, "grid": [block]})[0])
    assert found.optimizer.state_bytes == pytest.approx(4 + 4 * 272_896 / 27_535_872)
    assert found.optimizer.flops > 0


def test_the_dtype_of_the_run_counts(make_grid: MakeGrid) -> None:
    cell = make_grid(GUIDE)[0]
    assert (workload(cell, "fp32").value_bytes, workload(cell).value_bytes) == (4, 2)


@pytest.mark.parametrize("has_bf16", [False, True])
def test_only_of_this_machines_cpu_it_is_known_whether_it_has_bf16(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr("study.workload.has_bf16", lambda: has_bf16)
    slurm = {"slurm": {"partition": "cpu", "gpu_request": "none"}}
    here, elsewhere = make_grid()[0], make_grid({"clusters": {"here": slurm}})[0]
    assert plan_dtype(here) == ("bf16" if has_bf16 else "fp32")
    assert plan_dtype(elsewhere) == "fp32"


@pytest.mark.parametrize(
    ("shard", "tensor_parallel", "sharding"),
    [
        (1, 1, "none"),
        (4, 1, "hybrid"),
        (8, 1, "full"),
        (1, 2, "none"),
        (2, 2, "hybrid"),
        # four groups of two GPUs share one copy
        (4, 2, "full"),
    ],
)
def test_over_which_of_eight_gpus_a_copy_is_sharded(
    shard: int, tensor_parallel: int, sharding: str
) -> None:
    layout = {"shard": shard, "tensor_parallel": tensor_parallel}
    assert Workload(**{**vars(SMALL), **layout}).sharding == sharding
