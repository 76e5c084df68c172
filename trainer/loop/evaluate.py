"""Validation loss on held-out text, over the same windows on any number of GPUs."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainer.collectives import sum_over_ranks
from trainer.config import RunConfig
from trainer.execution.choices import Dtype
from trainer.execution.compiling import uncompiled
from trainer.execution.precision import precision
from trainer.loop.session import Session
from trainer.records import Evaluation, finite
from trainer.tokens.shard_folder import Shards
from trainer.tokens.windows import count_validation_windows, validation_windows
from trainer.world import World


def evaluation_due(config: RunConfig, step: int) -> bool:
    """Say whether the validation loss is to be computed after a step."""
    every = config.evaluation_period
    is_due = step == config.steps or (every is not None and step % every == 0)
    return config.eval is not None and is_due


def evaluate(session: Session, step: int) -> bool:
    """Write the validation loss to metrics.eval.jsonl; return on every rank if it is finite."""
    config, world, learner = session.config, session.world, session.learner
    assert config.eval is not None
    count = config.eval.validation.max_sequences
    with session.timer.spending("eval"):
        windows = validation_windows(session.texts.held_out, config.data.seq_len, count)
        loss, tokens = validation_loss(
            learner.model, windows, config.data.batch_size, learner.choices.model_dtype, world
        )
    sources = count_validation_windows(session.texts.held_out, config.data.seq_len, count)
    bits = bits_per_byte(loss, session.texts.held_out, sources)
    session.journal.evaluated(
        Evaluation(
            step=step,
            loss=finite(loss),
            bits_per_byte=finite(bits),
            tokens=tokens,
            elapsed_s=session.elapsed_s,
            attempt=session.journal.attempt,
        )
    )
    return math.isfinite(loss)


@torch.no_grad()
def validation_loss(
    model: nn.Module,
    windows: NDArray[np.unsignedinteger],
    batch_size: int,
    dtype: Dtype,
    world: World,
) -> tuple[float, int]:
    """Return the mean loss in nats per token over windows (N, T + 1), and the number of tokens.

    Ranks take batches in turn, and their sums are added. All ranks run the same number of forward
    passes: a sharded model needs every rank in each.
    """
    totals = torch.zeros(2, dtype=torch.float64)
    turns = -(-len(windows) // (world.data_size * batch_size))
    model.eval()
    for turn in range(turns):
        start = (turn * world.data_size + world.data_rank) * batch_size
        counts = start < len(windows)
        start = start if counts else 0
        tokens_BT = windows[start : start + batch_size].astype(np.int64)
        batch = torch.from_numpy(tokens_BT).to(world.device)
        with uncompiled(), precision(dtype, world.device):
            loss = model(batch[:, :-1], batch[:, 1:])
        tokens = batch[:, 1:].numel() * counts
        totals += torch.tensor([loss.item() * tokens, tokens], dtype=torch.float64)
    model.train()
    loss_sum, tokens_sum = sum_over_ranks(totals, world).tolist()
    return loss_sum / tokens_sum, int(tokens_sum) // world.tp_size


def bits_per_byte(
    loss: float, shards: Mapping[str, Shards], windows: Mapping[str, int]
) -> float | None:
    """Convert a loss from nats per token to bits per byte, comparable between tokenizers.

    `shards` are source -> that of the held-out text, `windows` source -> number of windows in the
    loss, of the same length. None if the bytes of a source are unknown, as of token ids.
    """
    bytes_per_token = 0.0
    for name, count in windows.items():
        held_out = shards[name].held_out
        if not count:
            continue
        if not held_out.bytes:
            return None
        bytes_per_token += count / sum(windows.values()) * held_out.bytes / held_out.tokens
    return loss / math.log(2) / bytes_per_token if bytes_per_token else None
