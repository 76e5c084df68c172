"""What templates name, worked by hand for one run."""

from typing import Any

import pytest

from study.cluster_config import ClusterConfig
from study.terms import Placed, Terms
from study.trainers import TrainerConfig
from trainer.config import RunConfig


def terms(**changes: Any) -> Terms:
    """Return the terms of a run of 100 steps on 8 GPUs in nodes of 4, two to a tensor-parallel
    group: 4 replicas with 2 micro-batches of 3 sequences of 32 tokens."""
    values = {
        "name": "cell",
        "dump_dir": "out",
        "steps": 100,
        "grad_acc_steps": 2,
        "seed": 7,
        "model": {"dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "multiple_of": 32},
        "data": {"root_dir": "d", "sources": {"s": 1.0}, "batch_size": 3, "seq_len": 32},
        "distributed": {"tp_size": 2, "model_dtype": "auto", "compile": True},
        "optim": {"lr": 2e-3, "warmup": 10, "clip": 0.5},
        "logging": {"freq": 5},
        "checkpoint": {"dump": {"every": 20}},
        "eval": {"every": 25},
        **changes,
    }
    run = RunConfig.model_validate(values)
    cluster = ClusterConfig(gpu_name="X", gpus_per_node=4, cpus_per_gpu=6, device=run.device)
    trainer = TrainerConfig.model_validate({"module": "train", "log": {"format": "lingua"}})
    return Terms(Placed(run, 8, cluster, trainer))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            {
                **{"dim": 64, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2, "dim_per_layer": 16},
                # int(2 / 3 * 256) = 170, rounded up to a multiple of 32
                **{"head_dim": 16, "ffn_hidden": 192, "multiple_of": 32, "vocab_size": 258},
                # A layer: queries and output 2 * 64^2, keys and values 2 * 64 * 32, 3 * 64 * 192
                # and two norms; two matrices of the vocabulary, and the last norm.
                "params": 4 * (8192 + 4096 + 36_864 + 128) + 2 * 258 * 64 + 64,
                **{"seq_len": 32, "micro_batch": 3, "grad_acc_steps": 2, "global_batch": 24},
                **{"tokens_per_step": 768, "steps": 100, "tokens": 76_800, "seed": 7},
                **{"lr": 2e-3, "warmup": 10, "clip": 0.5, "name": "cell"},
                **{"checkpoint_every": 20, "eval_every": 25, "evaluates": True, "log_every": 5},
                **{"dtype": "bf16", "compile": True, "eager": 0, "device": "cuda", "threads": 6},
                **{"gpus": 8, "world_size": 8, "nodes": 2, "gpus_per_node": 4},
            },
        ),
        (
            {"checkpoint": None, "eval": None, "optim": {"clip": None}, "device": "cpu",
             "distributed": {"compile": False}},
            # At the end alone; each of 8 ranks has a batch of its own.
            {"checkpoint_every": 100, "eval_every": 100, "evaluates": False, "clip": 0.0,
             "dtype": "fp32", "compile": False, "eager": 1, "device": "cpu", "global_batch": 48},
        ),
        ({"distributed": {"model_dtype": "fp32"}}, {"dtype": "fp32"}),
        ({"checkpoint": {"dump": {"every": None}}}, {"checkpoint_every": 100}),
    ],
)  # fmt: skip
def test_terms_by_hand(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    found = terms(**changes)
    assert {name: found[name] for name in expected} == expected
