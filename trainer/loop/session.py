"""The state of one attempt: learner, data and files, created or restored here."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer import host
from trainer.config import RunConfig
from trainer.execution.choices import Choices, has_bf16
from trainer.flops import flops_per_token, mean_context
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import Position
from trainer.folder.journal import Journal
from trainer.folder.metrics import LossMean, RecordTimer
from trainer.folder.profiler import Profiler
from trainer.folder.run_folder import Action, describe_software, now, read_summary, set_aside
from trainer.loop.feed import preparation
from trainer.loop.learner import Learner, build_learner
from trainer.machine_load import MachineLoad
from trainer.model.model import DocumentBorder, Transformer
from trainer.records import Attempt, Layout, RunSummary, UsedChoices
from trainer.startup import Startup
from trainer.tokens.context import documents_context, first_inputs
from trainer.tokens.data import BatchLoader
from trainer.tokens.shards import Shards
from trainer.world import RankHost, World, cores_per_rank, device_name, gather_hosts


@dataclass
class Session:
    """The state of one attempt, as the training loop uses it."""

    config: RunConfig
    world: World
    startup: Startup
    learner: Learner
    shards: dict[str, Shards]
    start: Position
    loader: BatchLoader
    saver: checkpoint.Saver
    profiler: Profiler
    journal: Journal
    attention_context: float
    """Mean number of keys that a token attends to."""
    flops_per_token: float
    """Model FLOPs per token at that context, forward and backward."""
    losses: LossMean
    load: MachineLoad
    timer: RecordTimer = field(default_factory=RecordTimer)

    @property
    def elapsed_s(self) -> float:
        """Wall-clock seconds of the run: this attempt, and earlier ones up to their checkpoint."""
        return self.start.elapsed_s + self.startup.elapsed_s

    def close(self) -> None:
        """Stop the loader and close the files."""
        self.loader.close()
        self.journal.close()
        self.profiler.close()


def content_keys(shards: dict[str, Shards]) -> dict[str, str]:
    """Return source -> key of its content; changed text makes a different run."""
    return {source: shard.key for source, shard in shards.items()}


def open_session(
    config: RunConfig,
    choices: Choices,
    startup: Startup,
    world: World,
    shards: dict[str, Shards],
    action: Action,
    model: Transformer | None = None,
) -> Session:
    """Build the model and optimizer, restore the newest checkpoint, open the output files.

    `model` is that of `build_model`, if already built.
    """
    folder = Path(config.dump_dir)
    if world.is_main and action == "start":
        set_aside(folder)
    kept = _kept_attention(folder, world) if action == "resume" else None
    learner = build_learner(config, choices, world, model, kept)
    start = _restore(config, folder, learner, world, action)
    startup.mark("model")
    loader = _open_loader(config, shards, world, start.step)
    context = _attention_context(config, learner.model.border, loader, shards)
    ranks = gather_hosts(world)
    session = Session(
        config=config,
        world=world,
        startup=startup,
        learner=learner,
        shards=shards,
        start=start,
        loader=loader,
        saver=checkpoint.Saver(checkpoint.folder_of(config, folder), config.checkpoint, world),
        profiler=Profiler(config.profiling, folder, world, start.step),
        journal=Journal(config, folder, start.step, startup),
        losses=LossMean(world.device, start.loss_sum, start.loss_steps),
        load=_machine_load(ranks),
        attention_context=context,
        flops_per_token=flops_per_token(
            config.model, config.data.tokenizer.vocab_size, config.data.seq_len, context=context
        ),
    )
    if world.is_main:
        summary = _summarize(session, ranks)
        session.journal.open(summary)
        _announce(config, summary)
    return session


def _kept_attention(folder: Path, world: World) -> str | None:
    """Return the attention kernel that a resumed run has used, if it is on the same GPU model."""
    summary = read_summary(folder)
    if summary is None or summary.gpu_name != device_name(world):
        return None
    return summary.choices.attention


def _restore(
    config: RunConfig, folder: Path, learner: Learner, world: World, action: Action
) -> Position:
    """Load this run's newest checkpoint, or the initial weights that the settings name.

    Returns the position to continue from.
    """
    start = Position(0, 0.0, config.trajectory(world.size))
    if action == "resume":
        checkpoints = checkpoint.folder_of(config, folder)
        newest = checkpoint.find_newest(checkpoints, start.trajectory, world)
        if newest is not None:
            checkpoint.load(checkpoints, newest.step, learner.model, learner.optimizer)
            if world.is_main:
                print(f"{folder}: resuming from step {newest.step}", flush=True)
            return newest
    init = config.checkpoint and config.checkpoint.init_ckpt_path
    if init:
        checkpoint.start_from(Path(init), learner.model)
    return start


def _open_loader(
    config: RunConfig, shards: dict[str, Shards], world: World, done: int
) -> BatchLoader:
    """Return the loader of the batches after step `done`."""
    return BatchLoader(
        shards,
        config.data,
        seed=config.seed if config.data.seed is None else config.data.seed,
        grad_acc_steps=config.grad_acc_steps,
        rank=world.data_rank,
        world=world.data_size,
        start_step=done,
        stop_step=config.steps,
        prepare=preparation(world.device),
    )


def _attention_context(
    config: RunConfig, border: DocumentBorder | None, loader: BatchLoader, shards: dict[str, Shards]
) -> float:
    """Return the mean number of keys that a token attends to; in a long run, at its beginning."""
    window = config.model.sliding_window
    if border is None:
        return mean_context(config.data.seq_len, window)
    inputs = first_inputs(loader.order, shards, config.steps * loader.global_batch)
    return documents_context(inputs, border.token, border.opens, window)


def _summarize(session: Session, ranks: list[RankHost]) -> RunSummary:
    """Return run.json as of the start of an attempt."""
    config, world, learner = session.config, session.world, session.learner
    hosts = {rank.host: rank.address for rank in ranks}
    replicas, shards = config.distributed.data_parallel(world.size)
    fingerprint = config.fingerprint(world.size)
    attempt = Attempt(
        attempt=1,  # RunFile numbers it
        start=now(),
        fingerprint=fingerprint,
        gpus=world.size,
        hosts=tuple(hosts),
        first_step=session.start.step + 1,
    )
    return RunSummary(
        status="running",
        name=config.name,
        params=sum(parameter.numel() for parameter in learner.model.parameters()),
        device=config.device,
        gpu_name=device_name(world),
        gpus=world.size,
        nodes=world.nodes,
        hosts=tuple(hosts),
        addresses=tuple(hosts.values()),
        layout=Layout(dp_replicate=replicas, dp_shard=shards, tp_size=world.tp_size),
        cores_per_rank=cores_per_rank(ranks),
        machine_cores=session.load.cores,
        choices=UsedChoices(**asdict(learner.choices)),
        **describe_software(),
        fingerprint=fingerprint,
        trajectory=session.start.trajectory,
        content=content_keys(session.shards),
        attention_context=session.attention_context,
        steps_done=session.start.step,
        attempts=(attempt,),
    )


def _machine_load(ranks: list[RankHost]) -> MachineLoad:
    """Return the counter of the load on the main process's machine."""
    here = [rank for rank in ranks if rank.host == ranks[0].host]
    cores = frozenset[int]().union(*(rank.cores for rank in here))
    return MachineLoad([rank.pid for rank in here], cores)


def _announce(config: RunConfig, summary: RunSummary) -> None:
    """Print model and devices, and warn of what slows the run down."""
    gpus = summary.gpus or 1
    print(
        f"{config.name}: {summary.params:,} parameters on {gpus} x {summary.gpu_name}, "
        f"{config.tokens_per_step(gpus):,} tokens per step",
        flush=True,
    )
    ranks = gpus // (summary.nodes or 1)
    cores = round((summary.cores_per_rank or 1) * ranks)
    problems = [host.find_complaint(config.device, cores, ranks)]
    if config.device == "cpu" and config.distributed.model_dtype == "bf16" and not has_bf16():
        problems.append(
            "distributed.model_dtype = bf16: this processor has no bf16 instructions; fp32 is many "
            "times faster"
        )
    for problem in problems:
        if problem is not None:
            print(f"warning: {problem}", flush=True)
