"""Where an attempt begins: at its run's newest checkpoint, another run's, or a run's first step."""

from dataclasses import dataclass, replace
from pathlib import Path

from trainer.config import RunConfig
from trainer.folder import checkpoint, initial_weights
from trainer.folder.checkpoint_state import Position, folder_of, of_step
from trainer.folder.initial_weights import InitialWeights
from trainer.folder.owner import claim
from trainer.folder.run_folder import Decision, set_aside, set_records_aside
from trainer.folder.source import KEY, Source, find_source
from trainer.loop.learner import Learner
from trainer.problems import ConfigError
from trainer.tokens.texts import Texts
from trainer.world import World


@dataclass(frozen=True)
class Start:
    """Where an attempt begins; at most one of the three others is given."""

    position: Position
    newest: Position | None = None
    """The run's newest checkpoint."""
    source: Source | None = None
    """The checkpoint of another run that this one continues."""
    initial: InitialWeights | None = None
    """The weights that the settings name."""

    @property
    def is_drawn(self) -> bool:
        """The weights are drawn, not loaded."""
        return self.newest is None and self.source is None and self.initial is None

    def load(self, config: RunConfig, learner: Learner, world: World) -> None:
        """Load what the attempt begins with, if anything. Raises ConfigError, CheckpointError."""
        if self.newest is not None:
            saved = of_step(folder_of(config, Path(config.dump_dir)), self.newest.step)
            checkpoint.load(saved, learner.model, learner.optimizer)
            return
        if self.source is not None:
            checkpoint.load(self.source.path, learner.model, learner.optimizer)
            what = f"continues {self.source.path} from step {self.source.position.step}"
        elif self.initial is not None:
            self.initial.load(learner.model)
            what = f"starting from the weights in {self.initial.path}"
        else:
            return
        if world.is_main:
            print(f"{config.dump_dir}: {what}", flush=True)


def find_start(config: RunConfig, world: World, texts: Texts, decision: Decision) -> Start:
    """Return where an attempt begins; all ranks call it. Raises ConfigError."""
    first = Position(
        step=0,
        elapsed_s=0.0,
        trajectory=config.trajectory(world.size),
        run=decision.run_id,
        content=texts.training_content,
        tokenizer=texts.tokenizer,
        global_batch=config.sequences_per_step(world.size),
    )
    checkpoints = folder_of(config, Path(config.dump_dir))
    resumes = decision.action == "resume"
    newest = checkpoint.find_newest(checkpoints, first, world) if resumes else None
    if newest is not None:
        # Checkpoints of older versions lack some of it.
        known = ("run", "content", "tokenizer", "global_batch")
        position = replace(newest, **{name: getattr(first, name) for name in known})
        return Start(position, newest=newest)
    source = _find_source(config, checkpoints, world)
    if source is not None:
        return Start(source.continued(config, first), source=source)
    return Start(first, initial=initial_weights.choose(config, world))


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


def prepare_folder(config: RunConfig, decision: Decision, start: Start) -> None:
    """Set aside what this run does not go on with, and claim the folder of checkpoints."""
    folder = Path(config.dump_dir)
    if decision.action == "start":
        set_aside(folder, folder_of(config, folder))
    elif start.newest is None:
        set_records_aside(folder)
    else:
        print(f"{folder}: resuming from step {start.newest.step}", flush=True)
    if decision.run_id is not None:
        claim(config, folder, decision.run_id)
