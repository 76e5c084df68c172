"""What a training loop works with: model, data, files; opened, and gone on with, in one place."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer import checkpoint, host, kernels, run_folder
from trainer.checkpoint import Position
from trainer.compile_later import CompileLater
from trainer.compiling import use_cache, when_to_compile
from trainer.config import RunConfig
from trainer.data import BatchLoader
from trainer.feed import preparation
from trainer.flops import flops_per_token
from trainer.graph import StepGraph
from trainer.layout import spread
from trainer.linear import pays
from trainer.machine_load import MachineLoad
from trainer.metrics import Interval, RecordFile, Startup
from trainer.model import DocumentBorder, Transformer
from trainer.optim import AdamW
from trainer.parallel import (
    Place,
    World,
    cores_per_rank,
    gather_places,
    is_sharded,
    resolve,
    resolve_dtype,
    set_arithmetic,
    set_threads,
)
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
    optimizer: AdamW
    shards: dict[str, Shards]
    start: Position
    loader: BatchLoader
    saver: checkpoint.Saver
    profiler: Profiler
    kernels: dict[str, str]
    """What was chosen, see trainer.kernels."""
    compiled: bool
    """Blocks are compiled."""
    flops_per_token: float
    """Of the model at the run's length, forward and backward."""
    later: CompileLater | None = None
    """What compiles while the run trains."""
    graph: StepGraph | None = None
    """The step as a CUDA graph."""
    metrics: RecordFile | None = None
    evaluations: RecordFile | None = None
    trackers: Trackers | None = None
    account: run_folder.RunFile | None = None
    load: MachineLoad | None = None
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
        for file in (self.later, self.metrics, self.evaluations, self.trackers, self.profiler):
            if file is not None:
                file.close()


def content_keys(shards: dict[str, Shards]) -> dict[str, str]:
    """Return source -> key of its content: a changed text makes another run."""
    return {source: shard.key for source, shard in shards.items()}


def set_up_process(config: RunConfig, world: World) -> None:
    """Set what torch and the system keep for the whole process. Raises ConfigError."""
    settings = config.distributed
    kernels.check(config, world.device)
    set_threads(settings, world)
    if settings.keep_memory and world.device.type == "cpu":
        host.keep_freed_memory()
    set_arithmetic(settings)
    use_cache(settings.compile_cache)


def build_model(config: RunConfig, world: World) -> Transformer:
    """Return the model with its first weights, on this process's device; talks to no other."""
    settings = config.distributed
    model = Transformer(
        config.model,
        config.data.tokenizer.vocab_size,
        config.data.seq_len,
        _border(config),
        fused=_are_fused(config, world),
        loss_chunk=settings.chunk_of_loss(config.data.tokenizer.vocab_size),
    )
    model.init_weights(config.seed)
    for layer in model.layers:
        layer.recompute = settings.recompute  # type: ignore[assignment]
    return model.to(world.device)


def _are_fused(config: RunConfig, world: World) -> bool:
    """Say whether matrices with one input are one."""
    settings = config.distributed
    # What is spread over processes, or turned into float8, is so by the names of its parts.
    if is_sharded(settings, world) or settings.float8_recipe is not None:
        return False
    if settings.fused_projections != "auto":
        return settings.fused_projections
    # On a CPU large products gain nothing, and their parts fit its caches better.
    tokens = config.data.batch_size * config.data.seq_len
    return world.device.type != "cpu" or not pays(tokens, config.model.dim, 3 * config.model.dim)


def open_session(
    config: RunConfig,
    startup: Startup,
    world: World,
    folder: Path,
    shards: dict[str, Shards],
    action: run_folder.Action,
    model: Transformer | None = None,
) -> Session:
    """Make what trains, load the checkpoint to go on from, and open the files.

    `model` is that of `build_model`, where it is there already.
    """
    if world.is_main and action == "start":
        run_folder.set_aside(folder)
    if model is None:
        model = build_model(config, world)
    chosen = kernels.agree_on(config, world, _kept_kernels(folder, action))
    kernels.use(chosen, model)
    settings = resolve(config.distributed, world.device)
    kernels.use_float8(model, settings, world.device)
    when = when_to_compile(config, world)
    trained = spread(model, settings, world, compiled=when == "first")
    optimizer = AdamW(model, config.optim)
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
        prepare=preparation(world.device),
    )
    session = Session(
        config=config,
        world=world,
        folder=folder,
        startup=startup,
        model=model,
        trained=trained,
        optimizer=optimizer,
        shards=shards,
        start=start,
        loader=loader,
        saver=checkpoint.Saver(checkpoint.folder_of(config, folder), config.checkpoint, world),
        profiler=Profiler(config.profiling, folder, world, start.step),
        kernels=chosen,
        compiled=when == "first",
        flops_per_token=flops_per_token(
            config.model, config.data.tokenizer.vocab_size, config.data.seq_len
        ),
    )
    places = gather_places(world)
    facts = _facts(session, places)
    if world.is_main:
        session.load = _machine_load(places)
        facts["machine_cores"] = session.load.cores
        _open_files(session, facts)
        _warn(session, facts["cores_per_rank"])
        if when == "later":
            session.later = CompileLater(_with_attention(config, chosen), world, folder)
    return session


def _with_attention(config: RunConfig, chosen: dict[str, str]) -> RunConfig:
    """Return the settings with the kernel of attention that was chosen: nobody measures it anew."""
    if chosen["attention"] == "torch":
        return config
    settings = config.distributed.model_copy(update={"attention": chosen["attention"]})
    return config.model_copy(update={"distributed": settings})


def _warn(session: Session, cores: float) -> None:
    """Say what of the machine makes the run slower than it need be."""
    config, world = session.config.distributed, session.world
    ranks = world.local_size
    problems = [host.find_complaint(world.device.type, round(cores * ranks), ranks)]
    slow = not host.has_bf16(host.processor())
    if world.device.type == "cpu" and config.model_dtype == "bf16" and slow:
        problems.append(
            "distributed.model_dtype = bf16: this processor has no bf16 arithmetic, and takes many "
            "times as long as with fp32"
        )
    for problem in problems:
        if problem is not None:
            print(f"warning: {problem}", flush=True)


def _kept_kernels(folder: Path, action: run_folder.Action) -> dict[str, str] | None:
    """Return what a run that goes on has used so far, where it is on such a device again."""
    facts = run_folder.read_facts(folder) or {}
    same = action == "resume" and facts.get("gpu_name") == gpu_name()
    return facts.get("kernels") if same else None


def gpu_name() -> str:
    """Return the name of the GPU; on a machine without, of its processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else host.processor_name()


def _border(config: RunConfig) -> DocumentBorder | None:
    if not config.data.document_mask:
        return None
    tokenizer = build_tokenizer(config.data.tokenizer)
    opens = config.data.add_bos
    return DocumentBorder(tokenizer.bos if opens else tokenizer.eos, opens)


def _load_newest(
    folder: Path, start: Position, model: nn.Module, optimizer: AdamW, world: World
) -> Position:
    newest = checkpoint.find_newest(folder, start.trajectory, world)
    if newest is None:
        return start
    checkpoint.load(folder, newest.step, model, optimizer)
    if world.is_main:
        print(f"{folder.parent}: going on from step {newest.step}", flush=True)
    return newest


def _facts(session: Session, places: list[Place]) -> dict[str, Any]:
    """Return the fixed part of run.json; every rank calls it."""
    config, world = session.config, session.world
    hosts = {place.host: place.address for place in places}
    return {
        "name": config.name,
        "params": sum(parameter.numel() for parameter in session.model.parameters()),
        "layout": _layout(config, world),
        "gpus": world.size,
        "nodes": world.nodes,
        "gpu_name": gpu_name() if world.device.type == "cuda" else host.processor_name(),
        "hosts": list(hosts),
        "addresses": list(hosts.values()),
        "device": world.device.type,
        "cores_per_rank": cores_per_rank(places),
        "threads_per_rank": torch.get_num_threads(),
        "model_dtype": resolve_dtype(config.distributed, world.device),
        "compiled": session.compiled,
        "kernels": session.kernels,
        **run_folder.describe_software(),
        "fingerprint": config.fingerprint(world.size),
        "trajectory": config.trajectory(world.size),
        "content": content_keys(session.shards),
        "steps_done": session.start.step,
        "peak_memory_gib": None,
        "machine_load": None,
        "loss_final": None,
        "loss_validation": None,
    }


def _machine_load(places: list[Place]) -> MachineLoad:
    """Return what counts the load of the main process's machine."""
    here = [place for place in places if place.host == places[0].host]
    cores = frozenset[int]().union(*(place.cores for place in here))
    return MachineLoad([place.pid for place in here], cores)


def _layout(config: RunConfig, world: World) -> dict[str, Any]:
    copies, shards = config.distributed.data_parallel(world.size)
    return {"dp_replicate": copies, "dp_shard": shards, "tp_size": world.tp_size}


def _open_files(session: Session, facts: dict[str, Any]) -> None:
    folder, step = session.folder, session.start.step
    previous = run_folder.read_facts(folder) or {}
    if step > 0:  # what earlier attempts found stands until this one finds it anew
        facts |= {key: previous.get(key) for key in ("loss_final", "loss_validation")}
    session.account = run_folder.RunFile(folder, facts, previous.get("attempts", []))
    session.account.attempt["first_step"] = step + 1
    session.account.attempt["compiled_from"] = step + 1 if session.compiled else None
    session.trackers = Trackers(session.config, step, session.account.began)
    send = session.trackers.write
    session.metrics = RecordFile(folder / "metrics.jsonl", step, send)
    session.evaluations = RecordFile(folder / "metrics.eval.jsonl", step, send)
    print(
        f"{session.config.name}: {facts['params']:,} parameters on {facts['gpus']} x "
        f"{facts['gpu_name']}, {session.config.tokens_per_step(facts['gpus']):,} tokens per step",
        flush=True,
    )
