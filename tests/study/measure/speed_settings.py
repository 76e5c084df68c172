"""Runs with one setting changed: which changes change their speed."""

from typing import Any

from trainer.config import RunConfig
from trainer.layers import merge, nest

RUN = {
    "dump_dir": "out",
    "steps": 500,
    "model": {"dim": 64, "n_layers": 2, "n_heads": 2},
    "data": {"root_dir": "data", "sources": {"text": 1.0}},
}

OTHER_SPEED = {
    "optim.fused": False,
    "optim.clip": None,
    "grad_acc_steps": 2,
    "device": "cpu",
    "model.dim": 128,
    "model.sliding_window": 16,
    "model.weight_tying": True,
    "model.qk_norm": True,
    "model.norm_type": "layernorm",
    "model.activation": "gelu",
    "model.pos_embed": "none",
    "data.batch_size": 4,
    "data.seq_len": 1024,
    "data.load_async": False,
    "data.document_mask": True,
    "data.tokenizer.n_words": 300,
    "distributed.model_dtype": "fp32",
    "distributed.reduce_dtype": "bf16",
    "distributed.fsdp_type": "full_shard",
    "distributed.attention": "math",
    "distributed.cpu_matmul": "mkl",
    "distributed.fused_projections": False,
    "distributed.compile": False,
    "distributed.compile_options": {"combo_kernels": True},
    "distributed.residual_dtype": "bf16",
    "distributed.fused_pointwise": False,
    "distributed.cuda_graphs": True,
    "distributed.activation_checkpointing": "full",
    "distributed.selective_activation_checkpointing": True,
    "distributed.keep_memory": False,
    "distributed.loss_chunk": 64,
    "distributed.matmul_allow_tf32": True,
    "distributed.allow_bf16_reduced_precision_reduction": False,
    "distributed.float8_recipe": "rowwise",
    "distributed.detect_anomaly": True,
    "distributed.freeze_gc": False,
    "logging.freq": 1,
    "profiling.run": True,
}

SAME_SPEED = {
    "dump_dir": "elsewhere",
    "name": "another",
    "seed": 7,
    "steps": 1000,
    "gpu_name": "H200",
    "optim.lr": 1.0,
    "optim.warmup": 3,
    "optim.scheduler": "constant",
    "model.rope_theta": 5e5,
    "model.rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "data.root_dir": "/scratch/data",
    "data.sources": {"other": 2.0},
    "data.shards_dir": "/scratch/shards",
    "data.seed": 3,
    "distributed.compile_cache": "/scratch/compiled",
    "distributed.timeout_s": 60.0,
    "distributed.threads": 3,  # no operation of a step runs on the CPU
    "checkpoint.dump.every": 10,
    "eval": {},
}


def run_with(changes: dict[str, Any]) -> RunConfig:
    values: dict[str, Any] = dict(RUN)
    for key, value in changes.items():
        values = merge(values, nest(key, value))
    return RunConfig.model_validate(values)
