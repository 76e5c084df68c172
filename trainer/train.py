"""One training run, from its config to its files. `train` reads from top to bottom."""

import gc
import math
import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer import checkpoint, run_folder
from trainer.checkpoint import Position
from trainer.config import RunConfig
from trainer.data import BatchLoader, validation_windows
from trainer.evaluate import bits_per_byte, validation_loss
from trainer.flops import flops_per_token
from trainer.metrics import Interval, RecordFile, Startup
from trainer.model import Transformer
from trainer.optim import build_optimizer, learning_rate, set_learning_rate
from trainer.parallel import (
    StopSignal,
    World,
    agree,
    barrier,
    compile_blocks,
    gather_hosts,
    get_world,
    mean_over_ranks,
    precision,
    process_group,
    synchronised,
    wrap_model,
)
from trainer.shards import Shards, open_shards

EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to stop, has saved, and can go on (EX_TEMPFAIL)."""

ACTIONS: tuple[run_folder.Action, ...] = ("start", "resume", "done")
BYTES_PER_GIB = 2**30


def run(config: RunConfig, startup: Startup) -> int:
    """Train, or go on with, or find completed the run of a config; return the exit code."""
    world = get_world()
    folder = Path(config.dump_dir)
    with process_group(world):
        startup.mark("process_group")
        if not world.is_main:
            return _run_locked(config, startup, world, folder)
        with run_folder.locked(folder):
            return _run_locked(config, startup, world, folder)


def _run_locked(config: RunConfig, startup: Startup, world: World, folder: Path) -> int:
    if world.is_main:
        open_shards(config.data)  # made once, by one process, where they do not exist yet
    barrier(world)
    shards = open_shards(config.data)
    startup.mark("data")
    action: run_folder.Action = "done"
    if world.is_main:
        action = run_folder.choose_action(folder, config, world.size, _content(shards))
    action = ACTIONS[agree(ACTIONS.index(action), world)]
    if action == "done":
        if world.is_main:
            print(f"{folder}: the run is complete already", flush=True)
        return 0
    session = _open_session(config, startup, world, folder, shards, action)
    try:
        return train(session)
    except BaseException:
        session.end("failed")
        raise
    finally:
        session.close()


@dataclass
class Session:
    """All that the loop works with. Files are the main process's; the others have None there."""

    config: RunConfig
    world: World
    folder: Path
    startup: Startup
    model: Transformer
    trained: nn.Module
    """The model, wrapped for several processes."""
    optimizer: torch.optim.Optimizer
    shards: dict[str, Shards]
    start: Position
    loader: BatchLoader
    metrics: RecordFile | None = None
    evaluations: RecordFile | None = None
    account: run_folder.RunFile | None = None
    interval: Interval = field(default_factory=Interval)

    @property
    def elapsed_s(self) -> float:
        """Wall-clock seconds of the run: this attempt, and earlier ones up to their checkpoint."""
        return self.start.elapsed_s + self.startup.elapsed_s

    def end(self, status: str, **changes: Any) -> None:
        """Write the end of this attempt to run.json, once."""
        if self.account is not None and self.account.attempt["status"] == "running":
            self.account.end(status, self.startup.elapsed_s, **changes)

    def close(self) -> None:
        """Stop reading and close the files."""
        self.loader.close()
        for file in (self.metrics, self.evaluations):
            if file is not None:
                file.close()


def _content(shards: dict[str, Shards]) -> dict[str, str]:
    """Return source -> key of its content: a changed text makes another run."""
    return {source: shard.key for source, shard in shards.items()}


def _open_session(
    config: RunConfig,
    startup: Startup,
    world: World,
    folder: Path,
    shards: dict[str, Shards],
    action: run_folder.Action,
) -> Session:
    """Make model and optimizer, load the checkpoint to go on from, and open the files."""
    if world.is_main and action == "start":
        run_folder.set_aside(folder)
    model = Transformer(config.model, config.data.tokenizer.vocab_size, config.data.seq_len)
    model.init_weights(config.seed)
    model.to(world.device)
    if config.distributed.compile:
        compile_blocks(model)
    optimizer = build_optimizer(model, config.optim)
    start = Position(0, 0.0, config.trajectory(world.size))
    if action == "resume":
        start = _load_newest(folder / "checkpoints", start, model, optimizer, world)
    trained = wrap_model(model, world)
    startup.mark("model")
    loader = BatchLoader(
        shards,
        config.data,
        seed=config.seed if config.data.seed is None else config.data.seed,
        grad_acc_steps=config.grad_acc_steps,
        rank=world.rank,
        world=world.size,
        start_step=start.step,
        stop_step=config.steps,
    )
    session = Session(
        config, world, folder, startup, model, trained, optimizer, shards, start, loader
    )
    facts = _facts(session)
    if world.is_main:
        _open_files(session, facts)
    return session


def _load_newest(
    folder: Path, start: Position, model: nn.Module, optimizer: Any, world: World
) -> Position:
    newest = checkpoint.find_newest(folder, start.trajectory, world)
    if newest is None:
        return start
    checkpoint.load(folder, newest.step, model, optimizer)
    if world.is_main:
        print(f"{folder.parent}: going on from step {newest.step}", flush=True)
    return newest


def _facts(session: Session) -> dict[str, Any]:
    """Return the fixed part of run.json; every rank calls it."""
    config, world = session.config, session.world
    cuda = world.device.type == "cuda"
    return {
        "name": config.name,
        "params": sum(parameter.numel() for parameter in session.model.parameters()),
        "gpus": world.size,
        "nodes": world.nodes,
        "gpu_name": torch.cuda.get_device_name() if cuda else _processor(),
        "hosts": gather_hosts(world),
        "device": world.device.type,
        "threads_per_rank": torch.get_num_threads(),
        **run_folder.describe_software(),
        "fingerprint": config.fingerprint(world.size),
        "trajectory": config.trajectory(world.size),
        "content": _content(session.shards),
        "steps_done": session.start.step,
        "peak_memory_gib": None,
        "loss_final": None,
        "loss_validation": None,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _open_files(session: Session, facts: dict[str, Any]) -> None:
    folder, step = session.folder, session.start.step
    previous = run_folder.read_facts(folder) or {}
    if step > 0:  # what earlier attempts found stands until this one finds it anew
        facts |= {key: previous.get(key) for key in ("loss_final", "loss_validation")}
    session.account = run_folder.RunFile(folder, facts, previous.get("attempts", []))
    session.account.attempt["first_step"] = step + 1
    session.metrics = RecordFile(folder / "metrics.jsonl", step)
    session.evaluations = RecordFile(folder / "metrics.eval.jsonl", step)
    print(
        f"{session.config.name}: {facts['params']:,} parameters on {facts['gpus']} x "
        f"{facts['gpu_name']}, {session.config.tokens_per_step(facts['gpus']):,} tokens per step",
        flush=True,
    )


def train(session: Session) -> int:
    """Run the steps that are left; return the exit code."""
    config, world = session.config, session.world
    stop = StopSignal(world)
    gc.collect()
    gc.freeze()  # what start-up made stays: collecting it again and again costs steps their time
    session.interval = Interval()
    for step in range(session.start.step + 1, config.steps + 1):
        rate = learning_rate(config.optim, step, config.steps)
        set_learning_rate(session.optimizer, rate)
        with session.interval.spending("data"):
            batch = next(session.loader)
        loss, grad_norm = train_step(session, batch)
        session.interval.count_step()
        if step == session.start.step + 1:
            _finish_startup(session, loss)
        if step in (1, config.steps) or step % config.logging.freq == 0:
            finite = _record(session, step, loss, grad_norm, rate)
            if not finite:
                stop.close()
                session.end("completed", outcome="diverged")
                return 0
        kinds = checkpoint.due(config.checkpoint, step, config.steps)
        if _evaluation_due(config, step):
            _evaluate(session, step)
        stopping = step < config.steps and stop.agreed()
        if stopping and config.checkpoint is not None:
            kinds = kinds or ["dump"]
        if kinds:
            _save(session, step, kinds)
        if stopping:
            stop.close()
            session.end("preempted")
            return EXIT_PREEMPTED
    stop.close()
    session.end("completed", outcome="trained")
    return 0


def train_step(session: Session, batch: np.ndarray) -> tuple[Tensor, Tensor]:
    """Take one optimizer step on a batch (grad_acc_steps, B, T + 1) of token ids.

    Returns the mean loss of the global batch and the gradient norm, on the device: nothing here
    waits for it.
    """
    config, world, model = session.config, session.world, session.trained
    tokens = torch.from_numpy(batch.astype(np.int64))
    if world.device.type == "cuda":
        tokens = tokens.pin_memory().to(world.device, non_blocking=True)
    session.optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=world.device)
    for index, micro in enumerate(tokens):
        with synchronised(model, index == len(tokens) - 1):
            with precision(config.distributed, world.device):
                loss = model(micro[:, :-1], micro[:, 1:]) / len(tokens)
            loss.backward()
        total += loss.detach()
    limit = math.inf if config.optim.clip is None else config.optim.clip
    grad_norm = nn.utils.clip_grad_norm_(session.model.parameters(), limit)
    session.optimizer.step()
    return mean_over_ranks(total, world), grad_norm


def _finish_startup(session: Session, loss: Tensor) -> None:
    loss.item()  # waits for the device
    session.startup.mark("first_step")
    session.startup.finish()
    if session.account is not None:
        session.account.attempt["startup"] = session.startup.split
        session.account.write()


def _record(session: Session, step: int, loss: Tensor, grad_norm: Tensor, rate: float) -> bool:
    """Write a record and the progress line; say whether the loss is finite, on every rank."""
    config, world = session.config, session.world
    value, norm = loss.item(), grad_norm.item()
    times = session.interval.read()
    if session.metrics is not None and session.account is not None:
        tokens = config.tokens_per_step(world.size)
        tokens_per_s = tokens / times["time/step_s"]
        flops = flops_per_token(config.model, config.data.tokenizer.vocab_size, config.data.seq_len)
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
                "speed/tflops_per_gpu": tokens_per_s / world.size * flops / 1e12,
                "time/elapsed_s": session.elapsed_s,
                **times,
                "attempt": session.account.attempt["attempt"],
            }
        )
        session.account.write(
            steps_done=step,
            loss_final=value if math.isfinite(value) else None,
            peak_memory_gib=_peak_memory_gib(world),
        )
        left_s = (config.steps - step) * times["time/step_s"]
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
    config, world = session.config, session.world
    assert config.checkpoint is not None
    folder = session.folder / "checkpoints"
    position = Position(step, session.elapsed_s, session.start.trajectory)
    with session.interval.spending("checkpoint"):
        checkpoint.save(folder, position, kinds, session.model, session.optimizer, world)
        if world.is_main:
            checkpoint.prune(folder, config.checkpoint)
