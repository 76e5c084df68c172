"""What the measurements on a GPU share: sizes, settings, batches, and a learner ready to step."""

import functools
import gc
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.trainer_runs import device, settings, shape_of
from trainer import gpu_state
from trainer.config import BYTE_VOCABULARY, RunConfig
from trainer.layers import merge
from trainer.loop.first_steps import compile_ahead, prepare_steps
from trainer.loop.learner import Learner, build_learner, set_up_process
from trainer.tokens.tokenizer import ByteTokenizer
from trainer.world import get_world, gpu_uuid

SIZES = {"27.5M": "small", "85M": "85M", "206M": "206M", "820M": "820M"}
"""Size -> model of config/models.yaml."""
DOCUMENT = 400
"""Mean tokens of a document where documents are masked."""


@dataclass(frozen=True)
class Bench:
    """The shapes and batch of the items."""

    rehearses: bool
    folder: Path

    @property
    def batch(self) -> tuple[int, int]:
        """Sequences, and tokens of each."""
        return (2, 128) if self.rehearses else (8, 2048)

    @property
    def seconds(self) -> float:
        """How long steps are timed."""
        return 0.05 if self.rehearses else 1.5

    def config(self, size: str, /, **changes: Any) -> RunConfig:
        """Return a run's settings: those of a real run."""
        shape = shape_of(SIZES[size])
        if self.rehearses:
            shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "multiple_of": 32}
        base = settings(self.folder, shape, self.batch, 1000)
        base["distributed"] = {"compile": False, "threads": 1} if self.rehearses else {}
        base["optim"] = {"lr": 3e-4, "scheduler": "constant"}
        return RunConfig.model_validate(merge(base, changes))


def open_learner(config: RunConfig, **chosen: Any) -> Learner:
    """Return a learner, compiled and about to be captured, as at the beginning of a run.

    `chosen`: choices to replace.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if config.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    world = get_world(config.device)
    choices = replace(set_up_process(config, world), **chosen)
    learner = build_learner(config, choices, world)
    prepare(learner, config)
    return learner


def prepare(learner: Learner, config: RunConfig) -> None:
    """Compile, and capture later, as a run does."""
    prepare_steps(learner, config)
    if learner.choices.compiled:
        compile_ahead(learner)


def batch_of(config: RunConfig, index: int) -> Tensor:
    """Return batch `index` of the standard library's text, with borders if documents are masked."""
    draw = torch.Generator().manual_seed(index)
    text = _text()
    length = config.data.seq_len
    starts = torch.randint(
        len(text) - length - 1,
        (config.grad_acc_steps * config.data.batch_size,),
        generator=draw,
    )
    rows = [list(text[start : start + length + 1]) for start in starts.tolist()]
    tokens = torch.tensor(rows).view(config.grad_acc_steps, -1, length + 1)
    if config.data.tokenizer.vocab_size > BYTE_VOCABULARY:
        tokens = torch.randint(config.data.tokenizer.vocab_size, tokens.shape, generator=draw)
    if config.data.document_mask:
        is_border = torch.rand(tokens.shape, generator=draw) < 1 / DOCUMENT
        tokens = tokens.masked_fill(is_border, ByteTokenizer.bos)
    return tokens.pin_memory() if config.device == "cuda" else tokens


@functools.cache
def _text() -> bytes:
    return b"".join(p.read_bytes() for p in sorted(Path(os.__file__).parent.glob("[a-d]*.py")))


def read_gpu_state() -> gpu_state.GpuState | None:
    """Return the GPU's clock, power and limits; None where they cannot be read."""
    uuid = gpu_uuid(get_world(device()))
    return None if uuid is None else gpu_state.read(uuid)
