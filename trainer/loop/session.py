"""The state of one attempt: learner, data and files, created or restored here."""

from dataclasses import dataclass, field
from pathlib import Path

from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.flops import flops_per_token
from trainer.folder import checkpoint, initial_weights
from trainer.folder.checkpoint_state import Position
from trainer.folder.initial_weights import InitialWeights
from trainer.folder.journal import Journal
from trainer.folder.metrics import LossMean, RecordTimer
from trainer.folder.profiler import Profiler
from trainer.folder.run_folder import Action, read_summary, set_aside
from trainer.loop.feed import attention_context, open_loader
from trainer.loop.learner import Learner, build_learner
from trainer.machine_load import MachineLoad
from trainer.model.model import Transformer
from trainer.startup import Startup
from trainer.tokens.data import BatchLoader
from trainer.tokens.shards import Shards
from trainer.world import RankHost, World, device_name, gather_hosts


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
    ranks: list[RankHost]
    """Where each rank runs."""
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


def open_session(
    config: RunConfig,
    choices: Choices,
    startup: Startup,
    world: World,
    shards: dict[str, Shards],
    action: Action,
    model: Transformer | None = None,
) -> Session:
    """Build the model and optimizer, restore the newest checkpoint, open the data.

    `model` is that of `build_model`, if already built.
    """
    folder = Path(config.dump_dir)
    initial = initial_weights.choose(config, world) if action == "start" else None
    if world.is_main and action == "start":
        set_aside(folder)
    kept = _kept_attention(folder, world) if action == "resume" else None
    learner = build_learner(config, choices, world, model, kept)
    start = _restore(config, folder, learner, world, action, initial)
    startup.mark("model")
    loader = open_loader(config, shards, world, start.step)
    context = attention_context(config, learner.model.border, loader, shards)
    ranks = gather_hosts(world)
    return Session(
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
        ranks=ranks,
        load=_machine_load(ranks),
        attention_context=context,
        flops_per_token=flops_per_token(
            config.model, config.data.tokenizer.vocab_size, config.data.seq_len, context=context
        ),
    )


def _kept_attention(folder: Path, world: World) -> str | None:
    """Return the attention kernel that a resumed run has used, if it is on the same GPU model."""
    summary = read_summary(folder)
    if summary is None or summary.gpu_name != device_name(world):
        return None
    return summary.choices.attention


def _restore(
    config: RunConfig,
    folder: Path,
    learner: Learner,
    world: World,
    action: Action,
    initial: InitialWeights | None,
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
        initial = initial_weights.choose(config, world)
    if initial is not None:
        initial.load(learner.model)
        if world.is_main:
            print(f"{folder}: starting from the weights in {initial.path}", flush=True)
    return start


def _machine_load(ranks: list[RankHost]) -> MachineLoad:
    """Return the counter of the load on the main process's machine."""
    here = [rank for rank in ranks if rank.host == ranks[0].host]
    cores = frozenset[int]().union(*(rank.cores for rank in here))
    return MachineLoad([rank.pid for rank in here], cores)
