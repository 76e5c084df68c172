"""Resolving `auto`, on machines other than this one."""

from dataclasses import asdict
from typing import Any

import pytest

from trainer.config import ConfigError, DistributedConfig, RunConfig, validate
from trainer.execution.choices import Choices, Machine, choose, is_compiled, loss_chunk, model_dtype

ZEN5 = Machine(has_bf16=True, mkl_is_slow=True, has_onednn=True, cores=8, ranks=2)
SKYLAKE = Machine(has_bf16=False, mkl_is_slow=False, has_onednn=True, cores=16, ranks=1)


def run_config(device: str, **changes: Any) -> RunConfig:
    values = {
        "dump_dir": "out",
        "device": device,
        "steps": 10,
        "model": {"dim": 64, "n_layers": 1, "n_heads": 2},
        "data": {"root_dir": "x", "sources": {"text": 1.0}, "batch_size": 1, "seq_len": 16},
    }
    return RunConfig.model_validate({**values, **changes})


@pytest.mark.parametrize(
    ("device", "machine", "expected"),
    [
        (
            "cuda",
            SKYLAKE,
            Choices("bf16", True, True, 0, "torch", 16, attention=None),
        ),
        (
            "cpu",
            SKYLAKE,
            Choices("fp32", False, True, 0, "mkl", 16, attention="torch"),
        ),
        (
            "cpu",
            ZEN5,
            Choices("bf16", False, True, 0, "torch", 4, attention="torch"),
        ),
    ],
)
def test_all_of_auto(device: str, machine: Machine, expected: Choices) -> None:
    assert choose(run_config(device), 1, machine) == expected


def test_explicit_settings_are_used() -> None:
    stated = {
        "model_dtype": "fp32",
        "compile": True,
        "fused_projections": False,
        "loss_chunk": 8,
        "cpu_matmul": "mkl",
        "threads": 3,
        "attention": "math",
    }
    found = choose(run_config("cpu", distributed=stated), 1, ZEN5)
    assert asdict(found) == {
        "model_dtype": "fp32",
        "compiled": True,
        "fused_projections": False,
        "loss_chunk": 8,
        "cpu_matmul": "mkl",
        "threads": 3,
        "attention": "math",
    }


def test_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores: eight threads for one rank and four for two, whatever torchrun exports."""
    for asked in ("1", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        for ranks, threads in ((1, 8), (2, 4)):
            machine = Machine(False, False, True, cores=8, ranks=ranks)
            assert choose(run_config("cpu"), ranks, machine).threads == threads


def test_planning_and_the_trainer_agree_on_the_dtype() -> None:
    """On a CPU with bf16 the study said 4 bytes, and the trainer took 2."""
    auto = DistributedConfig()
    assert model_dtype(auto, "cpu") is None  # the settings alone do not say
    for machine in (ZEN5, SKYLAKE):
        planned = model_dtype(auto, "cpu", machine.has_bf16)
        assert planned == choose(run_config("cpu"), 1, machine).model_dtype
    assert model_dtype(auto, "cuda") == "bf16"


def test_compilation_is_for_gpus() -> None:
    assert is_compiled(DistributedConfig(), "cuda")
    assert not is_compiled(DistributedConfig(), "cpu")
    assert is_compiled(DistributedConfig(compile=True), "cpu")
    assert not is_compiled(DistributedConfig(compile=False), "cuda")


@pytest.mark.parametrize("layout", [{"fsdp_type": "full_shard"}, {"tp_size": 2}])
def test_sharded_matrices_are_not_fused(layout: dict[str, Any]) -> None:
    config = run_config("cuda", distributed=layout)
    assert not choose(config, 2, SKYLAKE).fused_projections
    if "tp_size" not in layout:
        assert choose(config, 1, SKYLAKE).fused_projections  # one process holds them all


def test_auto_chunks_only_large_vocabularies() -> None:
    assert loss_chunk(DistributedConfig(), 258) == 0
    assert loss_chunk(DistributedConfig(), 128_256) == 4096
    assert loss_chunk(DistributedConfig(loss_chunk=0), 128_256) == 0
    assert loss_chunk(DistributedConfig(tp_size=2), 128_256) == 0
    with pytest.raises(ConfigError, match="loss_chunk = 8"):
        validate(DistributedConfig, {"loss_chunk": 8, "tp_size": 2}, "run.yaml")
