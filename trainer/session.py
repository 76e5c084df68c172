"""What a training loop works with: model, data, files; opened, and gone on with, in one place."""

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoint, run_folder
from trainer.checkpoint import Position
from trainer.config import RunConfig
from trainer.data import BatchLoader
from trainer.layout import spread
from trainer.metrics import Interval, RecordFile, Startup
from trainer.model import DocumentBorder, Transformer
from trainer.optim import build_optimizer
from trainer.parallel import World, gather_hosts
from trainer.profiler import Profiler
from trainer.shards import Shards
from trainer.tokenizer import build_tokenizer
from trainer.trackers import Trackers


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
    saver: checkpoint.Saver
    profiler: Profiler
    metrics: RecordFile | None = None
    evaluations: RecordFile | None = None
    trackers: Trackers | None = None
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

    def finish(self, status: str, **changes: Any) -> None:
        """Wait for the checkpoint that is being written, then write the end of this attempt."""
        self.saver.wait()
        self.end(status, **changes)

    def close(self) -> None:
        """Stop reading and close the files."""
        self.loader.close()
        for file in (self.metrics, self.evaluations, self.trackers, self.profiler):
            if file is not None:
                file.close()


def content_keys(shards: dict[str, Shards]) -> dict[str, str]:
    """Return source -> key of its content: a changed text makes another run."""
    return {source: shard.key for source, shard in shards.items()}


def open_session(
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
    vocabulary, border = config.data.tokenizer.vocab_size, _border(config)
    model = Transformer(config.model, vocabulary, config.data.seq_len, border)
    model.init_weights(config.seed)
    model.to(world.device)
    trained = spread(model, config.distributed, world)
    optimizer = build_optimizer(model, config.optim)
    start = Position(0, 0.0, config.trajectory(world.size))
    if action == "resume":
        start = _load_newest(checkpoint.folder_of(config, folder), start, model, optimizer, world)
    init = config.checkpoint and config.checkpoint.init_ckpt_path
    if start.step == 0 and init:
        checkpoint.start_from(Path(init), model)
    startup.mark("model")
    loader = BatchLoader(
        shards,
        config.data,
        seed=config.seed if config.data.seed is None else config.data.seed,
        grad_acc_steps=config.grad_acc_steps,
        rank=world.data_rank,
        world=world.data_size,
        start_step=start.step,
        stop_step=config.steps,
    )
    saver = checkpoint.Saver(checkpoint.folder_of(config, folder), config.checkpoint, world)
    profiler = Profiler(config.profiling, folder, world, start.step)
    session = Session(
        config,
        world,
        folder,
        startup,
        model,
        trained,
        optimizer,
        shards,
        start,
        loader,
        saver,
        profiler,
    )
    facts = _facts(session)
    if world.is_main:
        _open_files(session, facts)
    return session


def _border(config: RunConfig) -> DocumentBorder | None:
    if not config.data.document_mask:
        return None
    tokenizer = build_tokenizer(config.data.tokenizer)
    opens = config.data.add_bos
    return DocumentBorder(tokenizer.bos if opens else tokenizer.eos, opens)


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
    hosts = gather_hosts(world)
    return {
        "name": config.name,
        "params": sum(parameter.numel() for parameter in session.model.parameters()),
        "layout": _layout(config, world),
        "gpus": world.size,
        "nodes": world.nodes,
        "gpu_name": torch.cuda.get_device_name() if cuda else _processor(),
        "hosts": list(hosts),
        "addresses": list(hosts.values()),
        "device": world.device.type,
        "threads_per_rank": torch.get_num_threads(),
        **run_folder.describe_software(),
        "fingerprint": config.fingerprint(world.size),
        "trajectory": config.trajectory(world.size),
        "content": content_keys(session.shards),
        "steps_done": session.start.step,
        "peak_memory_gib": None,
        "loss_final": None,
        "loss_validation": None,
    }


def _layout(config: RunConfig, world: World) -> dict[str, Any]:
    copies, shards = config.distributed.data_parallel(world.size)
    return {"dp_replicate": copies, "dp_shard": shards, "tp_size": world.tp_size}


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
    session.trackers = Trackers(session.config, step, session.account.began)
    send = session.trackers.write
    session.metrics = RecordFile(folder / "metrics.jsonl", step, send)
    session.evaluations = RecordFile(folder / "metrics.eval.jsonl", step, send)
    print(
        f"{session.config.name}: {facts['params']:,} parameters on {facts['gpus']} x "
        f"{facts['gpu_name']}, {session.config.tokens_per_step(facts['gpus']):,} tokens per step",
        flush=True,
    )
