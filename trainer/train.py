"""The loop over the steps of a run: train, record, evaluate, save, stop. See `take_step`."""

import gc
import math
import resource
import time

import torch
from torch import Tensor

from trainer import checkpoint
from trainer.checkpoint import Position
from trainer.compiling import compile_blocks
from trainer.config import RunConfig
from trainer.data import validation_windows
from trainer.evaluate import bits_per_byte, validation_loss
from trainer.layout import has_buckets
from trainer.metrics import Interval
from trainer.optim import learning_rate
from trainer.parallel import StopSignal, World, mean_over_ranks
from trainer.session import Session
from trainer.step import capture_later, compile_ahead, first_step, rehearse, train_step

EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to stop, has saved, and can go on (EX_TEMPFAIL)."""

BYTES_PER_GIB = 2**30


def train(session: Session) -> int:
    """Run the steps that are left; return the exit code."""
    stop = StopSignal(session.world)
    begin(session)
    for step in range(session.start.step + 1, session.config.steps + 1):
        code = take_step(session, stop, step)
        if code is not None:
            return code
    stop.close()
    session.finish("completed", outcome="trained")
    return 0


def begin(session: Session) -> None:
    """Make ready for the first step."""
    settings = session.config.distributed
    if settings.cuda_graphs and session.world.device.type == "cuda":
        capture_later(session)
    if session.compiled or (session.start.step > 0 and has_buckets(session.trained)):
        rehearse(session)
        session.startup.mark("compile" if session.compiled else "rehearsal")
    if settings.freeze_gc:
        gc.collect()
        gc.freeze()  # what start-up made stays: collecting it again and again costs steps time
    session.interval = Interval()


def take_step(session: Session, stop: StopSignal, step: int) -> int | None:
    """Take a step, counted from 1, with all that is due after it.

    Returns the exit code where the run ends here before its last step: None where it goes on.
    """
    config = session.config
    session.profiler.begin(step)
    session.optimizer.set_rate(learning_rate(config.optim, step, config.steps))
    asked = time.perf_counter()
    batch = next(session.loader)
    session.interval.charge("data", asked)
    first = step == session.start.step + 1
    loss, grad_norm = first_step(session, batch) if first else train_step(session, batch)
    session.interval.count_step()
    if first:
        _finish_startup(session, loss)
    if step in (1, config.steps) or step % config.logging.freq == 0:
        finite = _record(session, step, loss, grad_norm)
        if not finite:
            stop.close()
            session.finish("completed", outcome="diverged")
            return 0
    kinds = checkpoint.due(config.checkpoint, step, config.steps)
    if _evaluation_due(config, step):
        _evaluate(session, step)
    stop.ready = session.later is not None and session.later.is_ready()
    stopping = step < config.steps and stop.agreed()
    if stopping and config.checkpoint is not None:
        kinds = kinds or ["dump"]
    if kinds:
        _save(session, step, kinds)
    if stopping:
        return _stop_here(session, stop, step, kinds)
    if stop.all_know and not session.compiled:
        _take_over(session, step, loss, grad_norm)
    return None


def _take_over(session: Session, step: int, loss: Tensor, grad_norm: Tensor) -> None:
    """Go on with compiled blocks after a step; what it takes belongs to no interval."""
    if session.interval.steps:
        _record(session, step, loss, grad_norm)
    start = time.perf_counter()
    compile_blocks(session.model, session.config.distributed.compile_cache_size_limit)
    compile_ahead(session)
    session.compiled = True
    seconds = time.perf_counter() - start
    if session.account is not None:
        session.account.attempt.update(compiled_from=step + 1, standstill_s=seconds)
        session.account.write(compiled=True)
        print(f"compiled, after a standstill of {seconds:.1f} s", flush=True)
    session.interval = Interval()


def _stop_here(session: Session, stop: StopSignal, step: int, kinds: list[str]) -> int:
    stop.close()
    session.finish("preempted")
    if session.world.is_main:
        print(f"{session.folder}: asked to stop at step {step}; {_saved(kinds)}", flush=True)
    return EXIT_PREEMPTED


def _saved(kinds: list[str]) -> str:
    return "saved, to go on from there" if kinds else "nothing is saved, checkpoints are off"


def _finish_startup(session: Session, loss: Tensor) -> None:
    loss.item()  # waits for the device
    session.startup.mark("first_step")
    session.startup.finish()
    if session.later is not None and session.config.distributed.compile == "later":
        session.later.start()
    if session.account is not None:
        session.account.attempt["startup"] = session.startup.split
        session.account.write()


def _record(session: Session, step: int, loss: Tensor, grad_norm: Tensor) -> bool:
    """Write a record and the progress line; say whether the loss is finite, on every rank."""
    config, world = session.config, session.world
    value, norm = mean_over_ranks(loss, world).item(), grad_norm.item()
    times = session.interval.read()
    rate = learning_rate(config.optim, step, config.steps)
    if session.metrics is not None and session.account is not None and session.load is not None:
        tokens = config.tokens_per_step(world.size)
        tokens_per_s = tokens / times["time/step_s"]
        session.metrics.write(
            {
                "global_step": step,
                "loss/out": value,
                "optim/lr": rate,
                "optim/grad_norm": norm,
                "optim/total_tokens": step * tokens,
                "data/epoch": session.loader.epoch(step),
                "memory/max_reserved_gib": _device_memory_gib(world),
                "speed/wps": tokens_per_s / world.size,
                "speed/tokens_per_s": tokens_per_s,
                "speed/tflops_per_gpu": tokens_per_s / world.size * session.flops_per_token / 1e12,
                "time/elapsed_s": session.elapsed_s,
                **times,
                "machine/load": session.load.read(),
                "attempt": session.account.attempt["attempt"],
            }
        )
        session.account.note(
            steps_done=step,
            loss_final=value if math.isfinite(value) else None,
            peak_memory_gib=_peak_memory_gib(world),
            machine_load=session.load.mean,
        )
        left_s = (config.steps - step) * times["time/step_s"]
        if session.later is not None and step > session.start.step + 1:
            session.later.consider(left_s)
        print(
            f"step {step:>6}/{config.steps}  loss {value:.4f}  lr {rate:.2e}  "
            f"grad norm {norm:.2f}  {tokens_per_s:,.0f} tokens/s  "
            f"left {int(left_s // 60)}:{int(left_s % 60):02d}",
            flush=True,
        )
    return math.isfinite(value)


def _device_memory_gib(world: World) -> float | None:
    if world.device.type != "cuda":
        return None
    return torch.cuda.max_memory_reserved() / BYTES_PER_GIB


def _peak_memory_gib(world: World) -> float:
    """Return the peak so far: of the device, or on a CPU of the process."""
    device_gib = _device_memory_gib(world)
    if device_gib is not None:
        return device_gib
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux


def _evaluation_due(config: RunConfig, step: int) -> bool:
    if config.eval is None:
        return False
    every = None if config.checkpoint is None else config.checkpoint.eval.every
    return step == config.steps or (every is not None and step % every == 0)


def _evaluate(session: Session, step: int) -> None:
    """Write the validation loss to metrics.eval.jsonl; nothing where no text is held out."""
    config, world = session.config, session.world
    assert config.eval is not None
    count = config.eval.validation.max_sequences
    with session.interval.spending("eval"):
        windows = validation_windows(session.shards, config.data.seq_len, count)
        if len(windows) == 0:
            return
        loss, tokens = validation_loss(session.model, windows, config, world)
    if session.evaluations is not None and session.account is not None:
        held = sum(shard.val_tokens for shard in session.shards.values())
        text = sum(shard.val_bytes for shard in session.shards.values())
        session.evaluations.write(
            {
                "global_step": step,
                "eval/loss": loss,
                "eval/bits_per_byte": bits_per_byte(loss, held / text),
                "eval/tokens": tokens,
                "time/elapsed_s": session.elapsed_s,
                "attempt": session.account.attempt["attempt"],
            }
        )
        session.account.write(loss_validation=loss)
        print(f"step {step:>6}/{config.steps}  validation loss {loss:.4f}", flush=True)


def _save(session: Session, step: int, kinds: list[str]) -> None:
    position = Position(step, session.elapsed_s, session.start.trajectory)
    with session.interval.spending("checkpoint"):
        session.saver.save(position, kinds, session.model, session.optimizer)
