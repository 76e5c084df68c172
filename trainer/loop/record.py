"""The records of a run: what is measured between two of them, over all ranks."""

import math
from typing import Any

import torch
from torch import Tensor

from trainer.collectives import mean_over_ranks
from trainer.folder.journal import reserved_gib
from trainer.loop.session import Session
from trainer.loop.slow_ranks import OwnWork
from trainer.model.learning_rate import learning_rate
from trainer.records import Record, SlowRank, finite


def write_record(session: Session, step: int, loss: Tensor, grad_norm: Tensor) -> bool:
    """Write a record; return on every rank whether loss and weights are finite.

    The loss is from before the step; if the norm of its gradients is NaN, weights are after it.
    """
    config, world = session.config, session.world
    values = torch.stack((session.losses.mean(), loss.double(), grad_norm.double()))
    mean, last, norm = mean_over_ranks(values, world).tolist()
    session.losses.restart()
    times = session.timer.read()
    session.gpu.sample()
    slow = _compare_ranks(session, times)
    if world.is_main:
        begin, tokens = session.start.data, config.tokens_per_step(world.size)
        tokens_per_s = tokens / times["step_s"]
        per_gpu = tokens_per_s / world.size
        record = Record(
            step=step,
            loss=finite(mean),
            loss_of_step=finite(_float32(last)),
            rate=learning_rate(config.optim, step, config.steps),
            grad_norm=finite(_float32(norm)),
            tokens=begin.tokens + (step - begin.step) * tokens,
            epoch=session.loader.epoch(step),
            reserved_gib=reserved_gib(world.device),
            tokens_per_s_per_gpu=per_gpu,
            tokens_per_s=tokens_per_s,
            tflops_per_gpu=per_gpu * session.flops_per_token / 1e12,
            elapsed_s=session.elapsed_s,
            **times,
            machine_load=session.load.read(),
            slow_rank=slow,
            attempt=session.journal.attempt,
        )
        session.journal.record(record, session.load.mean, session.gpu.conditions)
    return math.isfinite(mean) and not math.isnan(norm)


def _compare_ranks(session: Session, times: dict[str, Any]) -> SlowRank | None:
    learner, steps = session.learner, times["interval_steps"]
    own = OwnWork(
        data_s=times["data_s"] / steps,
        # Forward passes of sharded weights wait for the other ranks.
        forward_s=0.0 if learner.is_sharded else learner.forward_s / steps,
        clock_mhz=session.gpu.clock_mhz or 0.0,
    )
    learner.forward_s = 0.0
    return session.slow_ranks.compare(own, times["step_s"])


def _float32(value: float) -> float:
    """Round a value to float32, the precision of a step's loss and norm."""
    return torch.tensor(value, dtype=torch.float32).item()
