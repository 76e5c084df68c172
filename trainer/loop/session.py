"""The state of one attempt: learner, data and files, created or restored here."""

from dataclasses import dataclass, field
from pathlib import Path

from trainer.collectives import share_tensors
from trainer.config import RunConfig
from trainer.execution.choices import Choices
from trainer.flops import flops_per_token
from trainer.folder import checkpoint
from trainer.folder.checkpoint_state import Position, folder_of
from trainer.folder.journal import Journal
from trainer.folder.metrics import LossMean, RecordTimer
from trainer.folder.profiler import Profiler
from trainer.folder.run_folder import Decision
from trainer.folder.source import Source
from trainer.gpu_state import GpuMeter
from trainer.loop.feed import attention_context, open_loader
from trainer.loop.learner import Learner, build_learner, build_model
from trainer.loop.slow_ranks import SlowRanks
from trainer.loop.start import find_start, prepare_folder
from trainer.machine_load import MachineLoad
from trainer.model.model import Transformer
from trainer.rank_hosts import RankHost, gather_hosts
from trainer.records import RunSummary
from trainer.startup import Startup
from trainer.tokens.data import BatchLoader
from trainer.tokens.texts import Texts
from trainer.world import World, device_name, gpu_uuid


@dataclass
class Session:
    """The state of one attempt, as the training loop uses it."""

    config: RunConfig
    world: World
    startup: Startup
    learner: Learner
    texts: Texts
    start: Position
    loader: BatchLoader
    saver: checkpoint.Saver
    profiler: Profiler
    journal: Journal
    attention_context: float
    """Mean number of keys that a token attends to."""
    ranks: list[RankHost]
    """Where each rank runs."""
    source: Source | None
    """The checkpoint of another run that this attempt began with."""
    earlier: RunSummary | None
    """run.json of the run's earlier attempts."""
    flops_per_token: float = field(init=False)
    """Model FLOPs per token at that context, forward and backward."""
    timer: RecordTimer = field(init=False)
    losses: LossMean = field(init=False)
    load: MachineLoad = field(init=False)
    gpu: GpuMeter = field(init=False)
    slow_ranks: SlowRanks = field(init=False)

    def __post_init__(self) -> None:
        config, world, start = self.config, self.world, self.start
        vocab_size, context = config.data.tokenizer.vocab_size, self.attention_context
        self.flops_per_token = flops_per_token(
            config.model, vocab_size, config.data.seq_len, context=context
        )
        self.timer = RecordTimer(world.device)
        self.losses = LossMean(world.device, start.loss_sum, start.loss_steps)
        self.load = _machine_load(self.ranks)
        self.gpu = GpuMeter(gpu_uuid(world))
        self.slow_ranks = SlowRanks(world, [rank.host for rank in self.ranks])

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
    texts: Texts,
    decision: Decision,
    model: Transformer | None = None,
) -> Session:
    """Build the model and optimizer, restore the newest checkpoint, open the data.

    `model` is that of `build_model`, if already built, drawn on the main process alone.
    """
    folder = Path(config.dump_dir)
    start = find_start(config, world, texts, decision)
    if world.is_main:
        prepare_folder(config, decision, start)
    if model is None:
        model = build_model(config, choices, world.device, draws=start.is_drawn and world.is_main)
    if start.is_drawn:
        share_tensors((weight.detach() for weight in model.parameters()), world)
    kept = _kept_attention(decision.earlier, world)
    learner = build_learner(config, choices, world, model, kept)
    start.load(config, learner, world)
    startup.mark("model")
    position = start.position
    loader = open_loader(config, texts.training, world, position.step, position.data)
    checkpoints, text = folder_of(config, folder), config.to_yaml()
    return Session(
        config=config,
        world=world,
        startup=startup,
        learner=learner,
        texts=texts,
        start=position,
        loader=loader,
        saver=checkpoint.Saver(checkpoints, config.checkpoint, world, text),
        profiler=Profiler(config.profiling, folder, world, position.step),
        journal=Journal(config, folder, position.step, startup),
        attention_context=attention_context(config, learner.model.border, loader, texts.training),
        ranks=gather_hosts(world),
        source=start.source,
        earlier=decision.earlier,
    )


def _kept_attention(earlier: RunSummary | None, world: World) -> str | None:
    """Return the attention kernel that a resumed run has used, if it is on the same GPU model."""
    if earlier is None or earlier.gpu_name != device_name(world):
        return None
    return earlier.choices.attention


def _machine_load(ranks: list[RankHost]) -> MachineLoad:
    """Return the counter of the load on the main process's machine."""
    here = [rank for rank in ranks if rank.host == ranks[0].host]
    cores = frozenset[int]().union(*(rank.cores for rank in here))
    return MachineLoad([rank.pid for rank in here], cores)
