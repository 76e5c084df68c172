"""A study of cells for several trainers, and the trainers that have a stand-in."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

MIXED_STUDY: dict[str, Any] = {
    "study": "mixed",
    "models": {"tiny": {"dim": 128, "n_layers": 2, "n_heads": 4}},
    "clusters": {"here": {"device": "cpu", "gpu_name": "CPU core", "gpus_per_node": 8}},
    "trainers": str(ROOT / "config/trainers.yaml"),
    "corpora": ["python_stdlib"],
    "run": {
        "steps": 40,
        "grad_acc_steps": 2,
        "optim": {"lr": 0.001, "warmup": 10, "lr_min_ratio": 0.1, "epsilon": 1e-5},
        "distributed": {"compile": False},
        "data": {
            "root_dir": "/srv/data", "sources": {"python_stdlib": 1.0}, "batch_size": 8,
            "seq_len": 64,
        },
        "logging": {"freq": 5},
        "checkpoint": {"dump": {"every": 20}, "eval": {"every": 20}},
        "eval": {"validation": {"max_sequences": 64}},
    },
}  # fmt: skip

STANDINS = ("lingua", "torchtitan", "nanogpt", "nanochat")
"""The trainers whose programs standin.py can play."""
