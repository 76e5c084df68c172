"""What a run writes: logs, traces, checkpoints and evaluations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from trainer import lingua, other_names
from trainer.paths import FilePath
from trainer.problems import RuleError
from trainer.settings import LeftOut, Settings, Text

WANDB_PASSED_ON = (
    *("resume", "config_exclude_keys", "config_include_keys", "anonymous", "allow_val_change"),
    *("force", "tensorboard", "sync_tensorboard", "monitor_gym", "save_code"),
    *("fork_from", "resume_from"),
)
"""Keys of logging.wandb that cannot change the speed."""


class WandbConfig(Settings):
    """Weights & Biases; keys as in wandb.init. Needs `pip install wandb`."""

    project: str | None = None
    """Project; null: wandb's default."""
    entity: str | None = None
    """Team or user."""
    name: str | None = None
    """Name of the run; null: the run's own."""
    group: str | None = None
    """Group of runs."""
    job_type: str | None = None
    """Type of run."""
    tags: tuple[str, ...] | None = None
    """Tags."""
    notes: str | None = None
    """Notes."""
    dir: FilePath | None = None
    """Folder of wandb's files; null: the run's folder."""
    mode: Literal["online", "offline", "disabled"] | None = None
    """offline: write files for a later `wandb sync`."""
    id: str | None = None
    """Id of the run; null: derived from dump_dir, so that all attempts are one run."""
    resume: bool | Literal["allow", "must", "never", "auto"] | None = None
    """Whether to continue the run of that id; null: allow."""
    config_exclude_keys: tuple[str, ...] | None = None
    """Settings not to send."""
    config_include_keys: tuple[str, ...] | None = None
    """The only settings to send."""
    anonymous: str | None = None
    """Whether a run without a login is allowed."""
    allow_val_change: bool | None = None
    """Whether settings may change."""
    force: bool | None = None
    """Whether a run without a login fails."""
    tensorboard: bool | None = None
    """Former name of sync_tensorboard."""
    sync_tensorboard: bool | None = None
    """Send TensorBoard's records too."""
    monitor_gym: bool | None = None
    """Send videos of OpenAI Gym."""
    save_code: bool | None = None
    """Send the main script."""
    fork_from: str | None = None
    """Run and step to branch from."""
    resume_from: str | None = None
    """Run and step to go back to."""


class LoggingConfig(Settings):
    """What the run logs."""

    other_names: ClassVar[Mapping[str, str]] = other_names.LOGGING

    freq: PositiveInt = 10
    """Steps between records of metrics.jsonl; the first and the last step are always recorded."""
    wandb: WandbConfig | None = None
    """Also send the records to Weights & Biases."""
    tensorboard: bool = False
    """Also write the records for TensorBoard, to dump_dir/tensorboard."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "acc_freq": "records cover whole steps; set freq",
    }


class ProfilingConfig(Settings):
    """A window of steps under torch.profiler and, on a GPU, with memory history."""

    run: bool = False
    """Profile."""
    trace_folder: FilePath = "profiling"
    """Folder of the traces below dump_dir; open them in https://ui.perfetto.dev."""
    profile_warmup: NonNegativeInt = 102
    """Steps before the window."""
    profile_steps: PositiveInt = 2
    """Steps of the window."""
    mem_warmup: NonNegativeInt = 100
    """GPU: steps before the memory history."""
    mem_steps: PositiveInt = 2
    """GPU: steps of the memory history."""

    @field_validator("trace_folder")
    @classmethod
    def _is_below(cls, value: str) -> str:
        # Traces have the same names in every run: elsewhere, one would overwrite another's.
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError(f"found {value!r}; expected a folder below the run's")
        return value


class SaveConfig(Settings):
    """One kind of checkpoint."""

    other_names: ClassVar[Mapping[str, str]] = other_names.SAVE

    every: PositiveInt | None = None
    """Steps between saves; null: only at the end."""
    keep: Annotated[int, Field(ge=-1)] = 1
    """How many of this kind to keep; 0 or -1: all."""


class CheckpointConfig(Settings):
    """Checkpoints to resume from. The last step is always saved."""

    other_names: ClassVar[Mapping[str, str]] = other_names.CHECKPOINT

    dump: SaveConfig = SaveConfig()
    """Regular checkpoints."""
    eval: SaveConfig = SaveConfig()
    """Checkpoints taken at evaluations: `every` is also the period of the validation loss."""
    path: FilePath | None = None
    """Folder of the checkpoints; null: dump_dir/checkpoints."""
    init_ckpt_path: FilePath | None = None
    """Weights to start from: a run or checkpoint of ours, an export or a Hugging Face Llama or
    Qwen3, or a checkpoint of lingua. The shape must be this run's."""
    continue_from: FilePath | None = None
    """Another run's folder (its newest checkpoint) or checkpoint, to continue: its weights,
    optimizer state, step and position in the data, with this run's steps, schedule and data."""
    continue_run: Annotated[str, Field(pattern=r"^[0-9a-f]{16}-[0-9]+$")] | None = None
    """Which checkpoint continue_from is: `RunConfig.trajectory` of its run, a minus sign and its
    step. Any other is refused, and the fingerprint depends on this instead of the path. null: not
    checked. The workflow sets it."""
    async_save: bool = True
    """Write checkpoints in the background while training continues."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "continue_training_from_init": LeftOut(
            "to continue another run's weights, optimizer and data, set checkpoint.continue_from",
            lingua.equals(False),
        ),
    }

    @property
    def periods(self) -> tuple[int, ...]:
        """Steps between checkpoints, for each kind that is not saved only at the end."""
        return tuple(kind.every for kind in (self.dump, self.eval) if kind.every)

    @model_validator(mode="after")
    def _begins_once(self) -> "CheckpointConfig":
        if self.continue_from is not None and self.init_ckpt_path is not None:
            message = "contradicts init_ckpt_path, which takes only weights; remove one of them"
            raise RuleError(["continue_from", "init_ckpt_path"], message)
        if self.continue_run is not None and self.continue_from is None:
            raise RuleError(["continue_run", "continue_from"], "needs continue_from")
        return self


class ValidationConfig(Settings):
    """How much held-out text one evaluation reads."""

    max_sequences: PositiveInt | None = 128
    """Sequences of data.seq_len in total over all GPUs; null: all."""
    sources: tuple[Text, ...] | None = None
    """Source folders in data.root_dir whose held-out text is read, in equal parts; null: those of
    data.sources. Runs with the same ones have comparable losses, whatever they are trained on."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "max_steps": "a number of steps would depend on the number of GPUs; set max_sequences",
        **{
            key: LeftOut("name the sources of the held-out text in sources", lingua.equals(usual))
            for key, usual in (("use_val_from_train_src", True), ("root_dir", ""))
        },
    }

    @field_validator("sources", mode="before")
    @classmethod
    def _none_is_usual(cls, value: Any) -> Any:
        return None if value == [] else value  # lingua's default


class EvalConfig(Settings):
    """Validation loss on held-out documents, periodically and at the end."""

    every: PositiveInt | None = None
    """Steps between evaluations, which then save no checkpoint; null: checkpoint.eval.every."""
    validation: ValidationConfig = ValidationConfig()
    """How much held-out text one evaluation reads."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "harness": LeftOut(
            "tasks run on the exported model: name them in the study's evaluate.tasks, or run "
            "lm_eval on an export; here, expected eval: null or eval: {validation: "
            "{max_sequences: 128}}",
            lingua.names_no_tasks,
        ),
        "generator": LeftOut(
            "training generates no text; python -m trainer.commands.sample does, from a run",
            lambda value: isinstance(value, Mapping),  # only harness uses it
        ),
        "dataset_dir": "name the sources of the held-out text in validation.sources",
        **dict.fromkeys(
            ("name", "dump_dir", "metric_log_dir", "ckpt_dir", "wandb", "global_step"),
            "evaluations are part of the run: metrics.eval.jsonl in its folder",
        ),
    }
