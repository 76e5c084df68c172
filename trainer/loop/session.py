"""The state of one attempt: learner, data and files, created or restored here."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.flops import flops_per_token
from trainer.folder import checkpoint, initial_weights
from trainer.folder.checkpoint_state import Position, folder_of
from trainer.folder.initial_weights import InitialWeights
from trainer.folder.journal import Journal
from trainer.folder.metrics import LossMean, RecordTimer
from trainer.folder.owner import claim
from trainer.folder.profiler import Profiler
from trainer.folder.run_file import find_summary
from trainer.folder.run_folder import Action, set_aside, set_records_aside
from trainer.folder.source import KEY, Source, find_source
from trainer.gpu_state import GpuMeter
from trainer.loop.feed import attention_context, open_loader
from trainer.loop.learner import Learner, build_learner, build_model
from trainer.loop.slow_ranks import SlowRanks
from trainer.machine_load import MachineLoad
from trainer.model.model import Transformer
from trainer.problems import ConfigError
from trainer.startup import Startup
from trainer.tokens.data import BatchLoader
from trainer.tokens.shards import Shards, training_keys
from trainer.world import (
    RankHost,
    World,
    device_name,
    gather_hosts,
    gpu_uuid,
    share_tensors,
)


@dataclass
class Session:
    """The state of one attempt, as the training loop uses it."""

    config: RunConfig
    world: World
    startup: Startup
    learner: Learner
    shards: dict[str, Shards]
    """Source -> the text to train on."""
    held_out: dict[str, Shards]
    """Source -> the held-out text."""
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
    ranks: list[RankHost]
    """Where each rank runs."""
    load: MachineLoad
    gpu: GpuMeter
    slow_ranks: SlowRanks
    source: Source | None = None
    """The checkpoint of another run that this attempt began with."""
    timer: RecordTimer = field(init=False)

    def __post_init__(self) -> None:
        self.timer = RecordTimer(self.world.device)

    @property
    def elapsed_s(self) -> float:
        """Wall-clock seconds of the run: this attempt, and earlier ones up to their checkpoint."""
        return self.start.elapsed_s + self.startup.elapsed_s

    def close(self) -> None:
        """Stop the loader, close the files and release the CUDA graph.

        NCCL ends a process group only when no graph holds its kernels any more.
        """
        self.learner.graph = None
        self.loader.close()
        self.journal.close()
        self.profiler.close()


def open_session(
    config: RunConfig,
    choices: Choices,
    startup: Startup,
    world: World,
    shards: dict[str, Shards],
    action: Action,
    model: Transformer | None = None,
    run_id: str | None = None,
    held_out: dict[str, Shards] | None = None,
) -> Session:
    """Build the model and optimizer, restore the newest checkpoint, open the data.

    `model` is that of `build_model`, if already built, drawn on the main process alone; `run_id`
    that of `identify`, on the main process; `held_out` has other sources of the held-out text than
    those to train on.
    """
    folder = Path(config.dump_dir)
    first = Position(
        step=0,
        elapsed_s=0.0,
        trajectory=config.trajectory(world.size),
        run=run_id,
        content=training_keys(shards),
        tokenizer=next(iter(shards.values())).tokenizer,
        global_batch=config.sequences_per_step(world.size),
    )
    checkpoints = folder_of(config, folder)
    newest = checkpoint.find_newest(checkpoints, first, world) if action == "resume" else None
    source = _find_source(config, checkpoints, world) if newest is None else None
    start = first if source is None else source.continued(config, first)
    if newest is not None:
        # Checkpoints of older versions lack some of it.
        known = ("run", "content", "tokenizer", "global_batch")
        start = replace(newest, **{name: getattr(first, name) for name in known})
    initial = initial_weights.choose(config, world) if start.step == 0 else None
    if world.is_main:
        _prepare_folder(config, action, checkpoints, first, newest)
    kept = _kept_attention(folder, world) if action == "resume" else None
    is_drawn = newest is None and source is None and initial is None
    if model is None:
        model = build_model(config, choices, world.device, draws=is_drawn and world.is_main)
    if is_drawn:
        share_tensors((weight.detach() for weight in model.parameters()), world)
    learner = build_learner(config, choices, world, model, kept)
    _restore(config, learner, newest, source or initial, world)
    startup.mark("model")
    loader = open_loader(config, shards, world, start.step, start.data)
    context = attention_context(config, learner.model.border, loader, shards)
    ranks = gather_hosts(world)
    return Session(
        config=config,
        world=world,
        startup=startup,
        learner=learner,
        shards=shards,
        held_out=shards if held_out is None else held_out,
        start=start,
        loader=loader,
        saver=checkpoint.Saver(checkpoints, config.checkpoint, world, config.to_yaml()),
        profiler=Profiler(config.profiling, folder, world, start.step),
        journal=Journal(config, folder, start.step, startup),
        losses=LossMean(world.device, start.loss_sum, start.loss_steps),
        ranks=ranks,
        load=_machine_load(ranks),
        source=source,
        gpu=GpuMeter(gpu_uuid(world)),
        slow_ranks=SlowRanks(world, [rank.host for rank in ranks]),
        attention_context=context,
        flops_per_token=flops_per_token(
            config.model, config.data.tokenizer.vocab_size, config.data.seq_len, context=context
        ),
    )


def _kept_attention(folder: Path, world: World) -> str | None:
    """Return the attention kernel that a resumed run has used, if it is on the same GPU model."""
    summary = find_summary(folder)
    if summary is None or summary.gpu_name != device_name(world):
        return None
    return summary.choices.attention


def _find_source(config: RunConfig, checkpoints: Path, world: World) -> Source | None:
    """Return the checkpoint that the settings say to continue. Raises ConfigError."""
    wanted = config.checkpoint and config.checkpoint.continue_from
    if not wanted:
        return None
    source = find_source(Path(wanted), world)
    if checkpoints.exists() and source.path.parent.samefile(checkpoints):
        message = f"{KEY}: is this run's own; expected another run's, or another dump_dir"
        raise ConfigError(str(source.path), [message])
    return source


def _prepare_folder(
    config: RunConfig, action: Action, checkpoints: Path, first: Position, newest: Position | None
) -> None:
    """Set aside what this run does not go on with, and claim the folder of checkpoints."""
    folder = Path(config.dump_dir)
    if action == "start":
        set_aside(folder, checkpoints)
    elif newest is None:
        set_records_aside(folder)
    else:
        print(f"{folder}: resuming from step {newest.step}", flush=True)
    if first.run is not None:
        claim(config, folder, first.run)


def _restore(
    config: RunConfig,
    learner: Learner,
    newest: Position | None,
    begin: Source | InitialWeights | None,
    world: World,
) -> None:
    """Load the run's newest checkpoint, that of the run it continues, or its initial weights."""
    if newest is not None:
        checkpoints = folder_of(config, Path(config.dump_dir))
        checkpoint.load(checkpoints, newest.step, learner.model, learner.optimizer)
        return
    if begin is None:
        return
    if isinstance(begin, InitialWeights):
        begin.load(learner.model)
        what = f"starting from the weights in {begin.path}"
    else:
        checkpoint.load_from(begin.path, learner.model, learner.optimizer)
        what = f"continues {begin.path} from step {begin.position.step}"
    if world.is_main:
        print(f"{config.dump_dir}: {what}", flush=True)


def _machine_load(ranks: list[RankHost]) -> MachineLoad:
    """Return the counter of the load on the main process's machine."""
    here = [rank for rank in ranks if rank.host == ranks[0].host]
    cores = frozenset[int]().union(*(rank.cores for rank in here))
    return MachineLoad([rank.pid for rank in here], cores)
