"""Resolving `auto`, on machines other than this one."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.small_runs import run_config
from trainer.config import DistributedConfig, RunConfig
from trainer.execution.choices import Choices, Machine, choose, is_compiled, loss_chunk, model_dtype
from trainer.layers import merge
from trainer.problems import ConfigError
from trainer.settings import validate

ZEN5 = Machine(has_bf16=True, mkl_is_slow=True, has_onednn=True, cores=8, ranks=2)
SKYLAKE = Machine(has_bf16=False, mkl_is_slow=False, has_onednn=True, cores=16, ranks=1)


def config_on(device: str, **changes: Any) -> RunConfig:
    few_tokens = {"data": {"batch_size": 1, "seq_len": 16}}
    return run_config(Path("out"), device=device, **merge(few_tokens, changes))


@pytest.mark.parametrize(
    ("device", "machine", "expected"),
    [
        (
            "cuda",
            SKYLAKE,
            Choices(
                *("bf16", True, True, 0, "torch", 16, None),
                cuda_graphs=True,
                fused_pointwise=True,
                output_multiple=64,
                weight_copies=True,
            ),
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
    assert choose(config_on(device), 1, machine) == expected


def test_explicit_settings_are_used() -> None:
    stated = {
        "model_dtype": "fp32",
        "compile": True,
        "fused_projections": False,
        "loss_chunk": 8,
        "cpu_matmul": "mkl",
        "threads": 3,
        "attention": "math",
        "cuda_graphs": False,
        "residual_dtype": "fp32",
        "fused_pointwise": True,  # without effect: matrices are not fused
    }
    found = choose(config_on("cpu", distributed=stated), 1, ZEN5)
    assert asdict(found) == {
        "model_dtype": "fp32",
        "compiled": True,
        "fused_projections": False,
        "loss_chunk": 8,
        "cpu_matmul": "mkl",
        "threads": 3,
        "attention": "math",
        "cuda_graphs": False,
        "residual_dtype": "fp32",
        "fused_pointwise": False,
        "output_multiple": 1,
        "weight_copies": False,
    }


def test_matmuls_in_fp32_avoid_a_slow_mkl() -> None:
    for changes, machine, expected in (
        ({}, ZEN5, "onednn"),
        ({}, SKYLAKE, "mkl"),
        ({}, replace(ZEN5, has_onednn=False), "mkl"),
        ({"tp_size": 2}, ZEN5, "mkl"),
        ({"cpu_matmul": "mkl"}, ZEN5, "mkl"),
    ):
        config = config_on("cpu", distributed={"model_dtype": "fp32", **changes})
        assert choose(config, 2, machine).cpu_matmul == expected, changes


def test_kernels_in_one_need_a_model_with_them() -> None:
    """RMSNorm, SwiGLU, or a rotary embedding without norms before it."""
    model = {"dim": 64, "n_layers": 1, "n_heads": 2}
    without = {"norm_type": "layernorm", "activation": "relu2", "pos_embed": "none"}
    for changes, expected in (
        (without, False),
        (without | {"norm_type": "rmsnorm"}, True),
        (without | {"activation": "swiglu"}, True),
        (without | {"pos_embed": "rope"}, True),
        (without | {"pos_embed": "rope", "qk_norm": True}, False),
    ):
        config = config_on("cuda", model=model | changes)
        assert choose(config, 1, SKYLAKE).fused_pointwise is expected, changes


def test_copies_of_weights_need_adamws_kernel_in_a_cuda_graph() -> None:
    for changes, expected in (
        ({}, True),
        ({"distributed": {"compile": False}}, True),
        ({"distributed": {"cuda_graphs": False}}, False),
        ({"distributed": {"model_dtype": "fp32"}}, False),
        ({"distributed": {"fused_pointwise": False}}, False),
        ({"distributed": {"fsdp_type": "full_shard"}}, False),
        ({"optim": {"name": "muon"}}, False),
        ({"optim": {"fused": False}}, False),
    ):
        choices = choose(config_on("cuda", **changes), 2, SKYLAKE)
        assert choices.weight_copies is expected, changes


def test_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores: eight threads for one rank and four for two, whatever torchrun exports."""
    for asked in ("1", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        for ranks, threads in ((1, 8), (2, 4)):
            machine = Machine(False, False, True, cores=8, ranks=ranks)
            assert choose(config_on("cpu"), ranks, machine).threads == threads


def test_planning_and_the_trainer_agree_on_the_dtype() -> None:
    """On a CPU with bf16 the study said 4 bytes, and the trainer took 2."""
    auto = DistributedConfig()
    assert model_dtype(auto, "cpu") is None  # the settings alone do not say
    for machine in (ZEN5, SKYLAKE):
        planned = model_dtype(auto, "cpu", machine.has_bf16)
        assert planned == choose(config_on("cpu"), 1, machine).model_dtype
    assert model_dtype(auto, "cuda") == "bf16"


def test_compilation_is_for_gpus() -> None:
    assert is_compiled(DistributedConfig(), "cuda")
    assert not is_compiled(DistributedConfig(), "cpu")
    assert is_compiled(DistributedConfig(compile=True), "cpu")
    assert not is_compiled(DistributedConfig(compile=False), "cuda")


@pytest.mark.parametrize("layout", [{"fsdp_type": "full_shard"}, {"tp_size": 2}])
def test_sharded_matrices_are_not_fused(layout: dict[str, Any]) -> None:
    config = config_on("cuda", distributed=layout)
    assert not choose(config, 2, SKYLAKE).fused_projections
    assert choose(config, 2, SKYLAKE).output_multiple == 1  # nor padded
    if "tp_size" not in layout:
        assert choose(config, 1, SKYLAKE).fused_projections  # one process holds them all


def test_matrices_in_float8_are_not_fused() -> None:
    """`float8_filter` is about the names of single ones."""
    config = config_on("cuda", distributed={"float8_recipe": "rowwise"})
    assert not choose(config, 1, SKYLAKE).fused_projections


def test_auto_chunks_only_large_vocabularies() -> None:
    assert loss_chunk(DistributedConfig(), 31_999) == 0
    assert loss_chunk(DistributedConfig(), 32_000) == 4096  # Llama 2's
    assert loss_chunk(DistributedConfig(loss_chunk=0), 128_256) == 0
    assert loss_chunk(DistributedConfig(tp_size=2), 128_256) == 0
    with pytest.raises(ConfigError, match="loss_chunk = 8"):
        validate(DistributedConfig, {"loss_chunk": 8, "tp_size": 2}, "run.yaml")


@pytest.mark.parametrize(
    ("gpus", "stated", "expected"),
    [
        (1, {}, True),
        (8, {}, True),  # DDP
        (8, {"fsdp_type": "full_shard"}, False),
        (1, {"fsdp_type": "full_shard"}, True),
        (1, {"detect_anomaly": True}, False),
        (1, {"float8_recipe": "rowwise"}, False),
        (1, {"cuda_graphs": False}, False),
        (1, {"float8_recipe": "rowwise", "cuda_graphs": True}, True),
    ],
)
def test_static_steps_are_captured(gpus: int, stated: dict[str, Any], expected: bool) -> None:
    found = choose(config_on("cuda", distributed=stated), gpus, SKYLAKE)
    assert found.cuda_graphs is expected
    assert not choose(config_on("cpu", distributed=stated), gpus, SKYLAKE).cuda_graphs


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        ({"fsdp_type": "full_shard"}, "bf16"),
        ({"fsdp_type": "no_shard"}, "fp32"),
        ({"fsdp_type": "no_shard", "tp_size": 4}, "fp32"),
        ({"fsdp_type": "no_shard", "tp_size": 2}, "bf16"),  # copies of sharded matrices use FSDP2
    ],
)
def test_fsdp_has_the_residual_stream_in_the_dtype_of_the_weights(
    layout: dict[str, Any], found: str
) -> None:
    config = config_on("cuda", distributed=layout)
    assert choose(config, 4, ZEN5).residual_dtype == found


def test_the_residual_stream_is_narrow_only_in_bf16() -> None:
    stated = {"residual_dtype": "bf16"}
    assert choose(config_on("cpu", distributed=stated), 1, ZEN5).residual_dtype == "bf16"
    assert choose(config_on("cpu", distributed=stated), 1, SKYLAKE).residual_dtype == "fp32"


@pytest.mark.parametrize(
    ("length", "gpus", "stated", "expected"),
    [
        (256, 1, {}, "flex"),
        (200, 1, {}, None),  # not whole blocks: the others are benchmarked
        (256, 2, {"tp_size": 2}, None),
        (256, 1, {"activation_checkpointing": "selective"}, None),
        (256, 1, {"attention": "cudnn"}, "cudnn"),
    ],
)
def test_masks_are_in_blocks(
    length: int, gpus: int, stated: dict[str, Any], expected: str | None
) -> None:
    config = config_on("cuda", distributed=stated)
    data = config.data.model_copy(update={"seq_len": length, "document_mask": True})
    config = config.model_copy(update={"data": data})
    assert choose(config, gpus, SKYLAKE).attention == expected


def test_flex_needs_a_mask_and_whole_blocks() -> None:
    for seq_len, mask in ((256, False), (200, True)):
        data = {"root_dir": "x", "sources": {"text": 1.0}, "seq_len": seq_len}
        values = {"data": {**data, "document_mask": mask}, "distributed": {"attention": "flex"}}
        with pytest.raises(ValueError, match="expected a document mask or sliding window"):
            config_on("cuda", **values)
