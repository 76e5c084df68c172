"""Precompilation: which runs share compiled code, and the job that compiles it before they start.

Runs of one shape on one kind of GPU compile the same code. On a Slurm partition they start
together, and all GPUs of each would wait for its own compilation; a job on one GPU compiles for all
of them. On a machine without Slurm runs are serialised, and the first compiles for the others.
"""

import hashlib
import json
from typing import Any

from study.grid import Cell
from trainer.config import RunConfig
from trainer.layers import merge
from trainer.settings import validate

PRECOMPILE_FOLDER = "precompile/{cluster}/{shape}"
"""Folder of a precompile job, relative to the study's folder."""

LEAVES_CODE_AS_IT_IS = {"timeout_s", "compile", "compile_cache", "dp_replicate", "reduce_dtype"}
"""Settings of `distributed` that do not change the code of a block."""


def precompile_folder(cell: Cell) -> str | None:
    """Return the folder of a cell's precompile job below its study's; None if it has none.

    Sharded models can only be compiled by the same number of processes, and the code of another
    trainer only by itself.
    """
    sharded = cell.run.distributed.is_sharded(cell.gpus)
    if cell.cluster_config.slurm is None or sharded or not cell.compiled:
        return None
    if not cell.trainer_config.is_native:
        return None
    canonical = json.dumps(_what_is_compiled(cell.run), sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return PRECOMPILE_FOLDER.format(cluster=cell.cluster, shape=f"{cell.model}-{digest}")


def precompile_run(cell: Cell) -> RunConfig:
    """Return the settings to compile a cell's code with, the same for all cells of its shape."""
    folder = precompile_folder(cell)
    unused = {"root_dir": "unused", "sources": {"unused": 1.0}}
    values = merge(
        _what_is_compiled(cell.run),
        {
            "dump_dir": folder,
            "name": folder,
            "steps": 1,
            "data": unused,
            "distributed": {
                "compile": True,
                "compile_cache": cell.run.distributed.compile_cache,
                "fsdp_type": "no_shard",
            },
            "checkpoint": None,
            "eval": None,
        },
    )
    return validate(RunConfig, values, f"precompile job of {cell.name}")


def _what_is_compiled(run: RunConfig) -> dict[str, Any]:
    of_data = {"batch_size", "seq_len", "tokenizer", "document_mask", "add_bos"}
    return run.model_dump(
        mode="json",
        exclude_defaults=True,
        include={
            "device": True,
            "gpu_name": True,
            "model": True,
            "data": of_data,
            "distributed": set(type(run.distributed).model_fields) - LEAVES_CODE_AS_IT_IS,
        },
    )
