"""The training loop: each step trains, records, evaluates, saves or stops; see `take_step`."""

import gc
import math
import signal
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.collectives import mean_over_ranks
from trainer.execution.layout import has_buckets
from trainer.folder import checkpoint
from trainer.loop.evaluate import evaluate, evaluation_due
from trainer.loop.first_steps import prepare_steps, rehearse, warm_up_step
from trainer.loop.record import write_record
from trainer.loop.session import Session
from trainer.loop.step import train_step
from trainer.loop.stop_signal import StopSignal
from trainer.model.learning_rate import learning_rate
from trainer.records import EXIT_PREEMPTED, Status


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


def begin(session: Session) -> None:
    """Prepare the first step: CUDA graph, compilation, garbage collection."""
    settings, learner = session.config.distributed, session.learner
    session.startup.mark("files")
    prepare_steps(learner, session.config)
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
        is_finite = write_record(session, step, loss, grad_norm)
        if not is_finite:
            return _diverged(session, stop)
    if evaluation_due(config, step):
        is_finite = evaluate(session, step)
        if not is_finite:
            return _diverged(session, stop)
    kinds = checkpoint.due(config.checkpoint, step, config.steps)
    stopping = step < config.steps and stop.agreed()
    if stopping and config.checkpoint is not None:
        kinds = kinds or ["dump"]
    saved = bool(kinds) and _save(session, step, kinds, grad_norm)
    return _stop_here(session, stop, step, saved) if stopping else None


def _finish_startup(session: Session, loss: Tensor) -> None:
    loss.item()  # waits for the device
    session.startup.mark("first_step")
    session.startup.finish()
    session.journal.started()


def _save(session: Session, step: int, kinds: list[str], grad_norm: Tensor) -> bool:
    """Save a checkpoint and return true, unless losses since the last record or weights are not
    finite; see `write_record`.

    Earlier checkpoints stay then, and the next record ends the run.
    """
    with session.timer.spending("checkpoint"):
        losses = session.losses
        values = torch.stack((losses.total, grad_norm.double()))
        loss_sum, norm = mean_over_ranks(values, session.world).tolist()
        if not math.isfinite(loss_sum) or math.isnan(norm):
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


def _diverged(session: Session, stop: StopSignal) -> int:
    _end(session, stop, "completed", outcome="diverged")
    return 0


def _stop_here(session: Session, stop: StopSignal, step: int, saved: bool) -> int:
    _end(session, stop, "preempted")
    if session.world.is_main:
        is_off = session.config.checkpoint is None
        reason = "checkpoints are off" if is_off else "loss or weights are not finite"
        result = "saved, can be resumed" if saved else f"not saved, {reason}"
        print(f"{session.config.dump_dir}: asked to stop at step {step}; {result}", flush=True)
    return EXIT_PREEMPTED


def _end(session: Session, stop: StopSignal, status: Status, **changes: Any) -> None:
    """Wait for what is on the way between ranks and to the disk; write the attempt's end."""
    stop.close()
    session.slow_ranks.close()
    with session.timer.spending("checkpoint"):
        session.saver.wait()
    session.journal.end(status, session.timer.so_far(), **changes)
