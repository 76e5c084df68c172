"""The training loop: each step trains, records, evaluates, saves or stops; see `take_step`."""

import gc
import math
import signal
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.collectives import mean_over_ranks
from trainer.config import RunConfig
from trainer.execution.layout import has_buckets
from trainer.folder import checkpoint
from trainer.folder.journal import reserved_gib
from trainer.loop.evaluate import bits_per_byte, validation_loss
from trainer.loop.first_steps import capture_later, rehearse, warm_up_step
from trainer.loop.session import Session
from trainer.loop.slow_ranks import OwnWork
from trainer.loop.step import train_step
from trainer.loop.stop_signal import StopSignal
from trainer.model.learning_rate import learning_rate
from trainer.records import EXIT_PREEMPTED, Evaluation, Record, SlowRank, Status, finite
from trainer.tokens.windows import count_validation_windows, validation_windows


def train(session: Session) -> int:
    """Run the remaining steps; return the exit code."""
    stop = StopSignal(session.world)
    _notice_suspensions(session)
    begin(session)
    for step in range(session.start.step + 1, session.config.steps + 1):
        code = take_step(session, stop, step)
        if code is not None:
            return code
    _end(session, stop, "completed", outcome="trained")
    return 0


def _notice_suspensions(session: Session) -> None:
    """Have the interval in which Slurm, or a shell, suspends and resumes the run say so."""

    def resumed(number: int, frame: object) -> None:
        session.timer.paused = True

    signal.signal(signal.SIGCONT, resumed)


def _end(session: Session, stop: StopSignal, status: Status, **changes: Any) -> None:
    """Wait for what is on the way between ranks and to the disk; write the attempt's end."""
    stop.close()
    session.slow_ranks.close()
    with session.timer.spending("checkpoint"):
        session.saver.wait()
    session.journal.end(status, session.timer.so_far(), **changes)


def begin(session: Session) -> None:
    """Prepare the first step: CUDA graph, compilation, garbage collection."""
    settings, learner = session.config.distributed, session.learner
    session.startup.mark("files")
    if learner.choices.cuda_graphs:
        capture_later(learner, session.config.optim.lr)
    compiled = learner.choices.compiled
    if compiled or (session.start.step > 0 and has_buckets(learner.trained)):
        rehearse(learner, session.world)
        session.startup.mark("compile" if compiled else "rehearsal")
    if settings.freeze_gc:
        gc.collect()
        gc.freeze()  # objects from start-up stay; scanning them again would slow steps down
    session.startup.mark("files")
    session.timer.restart()


def take_step(session: Session, stop: StopSignal, step: int) -> int | None:
    """Take a step, counted from 1, and do what is due after it.

    Returns the exit code if the run ends early at this step, else None.
    """
    config, learner = session.config, session.learner
    session.profiler.begin(step)
    learner.optimizer.set_rate(learning_rate(config.optim, step, config.steps))
    with session.timer.waiting_for_data():
        batch = next(session.loader)
    number = step - session.start.step  # in this attempt
    take = warm_up_step if number <= learner.warm_up_steps else train_step
    loss, grad_norm = take(learner, batch)
    if 1 < number <= learner.warm_up_steps:
        session.timer.paused = True
    session.losses.add(loss)
    session.timer.steps += 1
    if number == 1:
        _finish_startup(session, loss)
    if step in (1, learner.warm_up_steps, config.steps) or step % config.logging.freq == 0:
        is_finite = _record(session, step, loss, grad_norm)
        if not is_finite:
            return _diverged(session, stop)
    if _evaluation_due(config, step):
        is_finite = _evaluate(session, step)
        if not is_finite:
            return _diverged(session, stop)
    kinds = checkpoint.due(config.checkpoint, step, config.steps)
    stopping = step < config.steps and stop.agreed()
    if stopping and config.checkpoint is not None:
        kinds = kinds or ["dump"]
    saved = bool(kinds) and _save(session, step, kinds)
    return _stop_here(session, stop, step, saved) if stopping else None


def _diverged(session: Session, stop: StopSignal) -> int:
    _end(session, stop, "completed", outcome="diverged")
    return 0


def _stop_here(session: Session, stop: StopSignal, step: int, saved: bool) -> int:
    _end(session, stop, "preempted")
    if session.world.is_main:
        is_off = session.config.checkpoint is None
        reason = "checkpoints are off" if is_off else "the loss is not finite"
        result = "saved, can be resumed" if saved else f"not saved, {reason}"
        print(f"{session.config.dump_dir}: asked to stop at step {step}; {result}", flush=True)
    return EXIT_PREEMPTED


def _finish_startup(session: Session, loss: Tensor) -> None:
    loss.item()  # waits for the device
    session.startup.mark("first_step")
    session.startup.finish()
    session.journal.started()


def _record(session: Session, step: int, loss: Tensor, grad_norm: Tensor) -> bool:
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


def _evaluation_due(config: RunConfig, step: int) -> bool:
    every = config.evaluation_period
    is_due = step == config.steps or (every is not None and step % every == 0)
    return config.eval is not None and is_due


def _evaluate(session: Session, step: int) -> bool:
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
            bits_per_byte=None if bits is None else finite(bits),
            tokens=tokens,
            elapsed_s=session.elapsed_s,
            attempt=session.journal.attempt,
        )
    )
    return math.isfinite(loss)


def _save(session: Session, step: int, kinds: list[str]) -> bool:
    """Save a checkpoint, unless a loss since the last record is not finite; say whether it was.

    Earlier checkpoints stay then, and the next record ends the run.
    """
    with session.timer.spending("checkpoint"):
        losses = session.losses
        loss_sum = mean_over_ranks(losses.total, session.world).item() if losses.steps else 0.0
        if not math.isfinite(loss_sum):
            return False
        position = replace(
            session.start,
            step=step,
            elapsed_s=session.elapsed_s,
            loss_steps=losses.steps,
            loss_sum=loss_sum,
        )
        session.saver.save(position, kinds, session.learner.model, session.learner.optimizer)
    return True
