"""Compiled code that runs share: which of them, and the job that compiles it before they start.

Runs of one shape on one kind of GPU compile the same code. On a Slurm partition they start
together, each with all its GPUs waiting for its own compilation; a job on one GPU does it for all.
On a machine without Slurm they take turns, and the first does it for the others.
"""

import hashlib
import json
from typing import Any

from study.grid import Cell
from trainer.config import RunConfig, merge, validate

FOLDER = "precompile/{cluster}/{shape}"
"""Folder of a precompilation below its study's."""

LEAVES_CODE_AS_IT_IS = {"timeout_s", "compile", "compile_cache", "dp_replicate", "reduce_dtype"}
"""Settings of `distributed` that say nothing about the code of a block."""


def folder_of(cell: Cell) -> str | None:
    """Return the folder of a cell's precompilation below its study's; None where it has none.

    The code of weights spread over processes can be compiled by as many processes alone.
    """
    spread = cell.gpus > 1 and cell.run.distributed.shards_weights
    if cell.cluster_config.slurm is None or spread or not cell.compiled:
        return None
    canonical = json.dumps(_what_is_compiled(cell.run), sort_keys=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    return FOLDER.format(cluster=cell.cluster, shape=f"{cell.model}-{digest}")


def precompile_run(cell: Cell) -> RunConfig:
    """Return the settings that a cell's code is compiled with, the same for all of its shape."""
    folder = folder_of(cell)
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
    return validate(RunConfig, values, f"precompilation of {cell.name}")


def _what_is_compiled(run: RunConfig) -> dict[str, Any]:
    of_data = {"batch_size", "seq_len", "tokenizer", "document_mask", "add_bos"}
    return run.model_dump(
        mode="json",
        exclude_defaults=True,
        include={
            "model": True,
            "data": of_data,
            "distributed": set(type(run.distributed).model_fields) - LEAVES_CODE_AS_IT_IS,
        },
    )
