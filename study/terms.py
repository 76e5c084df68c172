"""What templates and placeholders name: a run's values in the field's own words, `TERMS`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.cluster_config import ClusterConfig
from study.trainers import TrainerConfig
from trainer.config import RunConfig
from trainer.execution.choices import is_compiled
from trainer.flops import count_parameters
from trainer.settings import suggest

SETTINGS_FILE = "settings.yaml"
"""A cell's complete settings in its run's folder, written when Snakemake starts its first job."""

NEUTRAL_FOLDER = "FOLDER"
"""Stands for every folder where the identity of a run is computed."""


@dataclass(frozen=True)
class Placed:
    """A run with the GPUs that it is on."""

    run: RunConfig
    gpus: int
    cluster: ClusterConfig
    trainer: TrainerConfig

    @property
    def gpus_per_node(self) -> int:
        """GPUs that the run has in each node."""
        return self.cluster.gpus_on_node(self.gpus)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.run.data.tokenizer.vocab_size

    def path(self, *parts: str) -> str:
        """Return a path for the trainer: absolute, as it may start in another folder."""
        joined = Path(*parts)
        neutral = joined.parts[:1] == (NEUTRAL_FOLDER,)
        return str(joined if neutral or self.trainer.is_native else joined.absolute())


def _dtype(placed: Placed) -> str:
    dtype = placed.run.distributed.model_dtype
    # A GPU of today computes in bf16; a CPU may not, and fp32 works everywhere.
    return dtype if dtype != "auto" else "bf16" if placed.run.device == "cuda" else "fp32"


def _checkpoint_every(run: RunConfig) -> int:
    every = run.checkpoint.dump.every if run.checkpoint else None
    return every or run.steps


TERMS: dict[str, Callable[[Placed], Any]] = {
    "dim": lambda p: p.run.model.dim,
    "n_layers": lambda p: p.run.model.n_layers,
    "n_heads": lambda p: p.run.model.n_heads,
    "n_kv_heads": lambda p: p.run.model.kv_heads,
    "dim_per_layer": lambda p: p.run.model.dim // p.run.model.n_layers,
    "head_dim": lambda p: p.run.model.head_dim,
    "ffn_hidden": lambda p: p.run.model.ffn_hidden,
    "multiple_of": lambda p: p.run.model.multiple_of,
    "ffn_dim_multiplier": lambda p: p.run.model.ffn_dim_multiplier,
    "params": lambda p: count_parameters(p.run.model, p.vocab_size).total,
    "vocab_size": lambda p: p.vocab_size,
    "seq_len": lambda p: p.run.data.seq_len,
    "micro_batch": lambda p: p.run.data.batch_size,
    "grad_acc_steps": lambda p: p.run.grad_acc_steps,
    "global_batch": lambda p: p.run.sequences_per_step(p.gpus),
    "tokens_per_step": lambda p: p.run.tokens_per_step(p.gpus),
    "steps": lambda p: p.run.steps,
    "tokens": lambda p: p.run.steps * p.run.tokens_per_step(p.gpus),
    "lr": lambda p: p.run.optim.lr,
    "lr_min_ratio": lambda p: p.run.optim.lr_min_ratio,
    "warmup": lambda p: p.run.optim.warmup,
    "weight_decay": lambda p: p.run.optim.weight_decay,
    "beta1": lambda p: p.run.optim.beta1,
    "beta2": lambda p: p.run.optim.beta2,
    "epsilon": lambda p: p.run.optim.epsilon,
    "clip": lambda p: p.run.optim.clip or 0.0,
    "seed": lambda p: p.run.seed,
    "data_root": lambda p: p.path(p.run.data.root_dir),
    "sources": lambda p: p.run.data.sources,
    "run": lambda p: p.path(p.run.dump_dir),
    "name": lambda p: p.run.name,
    "checkpoint_every": lambda p: _checkpoint_every(p.run),
    "eval_every": lambda p: p.run.evaluation_period or p.run.steps,
    "evaluates": lambda p: p.run.eval is not None,
    "log_every": lambda p: p.run.logging.freq,
    "dtype": _dtype,
    "compile": lambda p: is_compiled(p.run.distributed, p.run.device),
    "eager": lambda p: int(not is_compiled(p.run.distributed, p.run.device)),
    "device": lambda p: p.run.device,
    "threads": lambda p: p.cluster.cpus_per_gpu,
    "gpus": lambda p: p.gpus,
    "world_size": lambda p: p.gpus,
    "nodes": lambda p: p.cluster.nodes(p.gpus),
    "gpus_per_node": lambda p: p.gpus_per_node,
    "settings": lambda p: p.path(p.run.dump_dir, SETTINGS_FILE),
    "config": lambda p: p.path(p.run.dump_dir, p.trainer.config_name or ""),
    "study_dir": lambda p: NEUTRAL_FOLDER if p.run.dump_dir == NEUTRAL_FOLDER else p.path("."),
    "run_config": lambda p: p.run,
}
"""Name in a template or placeholder -> its value. Sizes of batches are in sequences, `params` and
`tokens` are counts, periods are in optimizer steps; `run_config.optim.beta1` is any key of a
run.yaml. `world_size` is what PyTorch calls `gpus`."""


def unknown_term(name: str) -> str:
    """Return what to say of a name that is not in `TERMS`."""
    return f"unknown name '{name}'; {suggest(name, tuple(TERMS))}"


class Terms(dict[str, Any]):
    """The terms of a run, each computed when it is first needed."""

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        self._placed = placed

    def __missing__(self, name: str) -> Any:
        self[name] = TERMS[name](self._placed)
        return self[name]
