"""Study files: what a user edits under config/, as typed values.

`Study` is complete by itself: written out with `to_yaml` and read back it expands to the same grid
anywhere. study/load.py reads one with the ladder and the clusters that it names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from study.cluster_config import ClusterConfig
from study.grid_config import GridEntry
from study.horizon import check_horizon
from study.sequences import group_by
from study.trainers import DEFAULT_TRAINER, OURS, KnownLog, TrainerConfig
from study.value_types import Name, ProjectPath, RunValues, WorkflowPath, as_list
from trainer.config import ModelConfig, RunConfig
from trainer.other_names import names
from trainer.paths import FilePath
from trainer.problems import RuleError
from trainer.settings import LeftOut, Settings, places
from trainer.yaml_files import dump_yaml

CORPORA = ("python_stdlib", "python_topics", "fineweb_edu_10bt_shuffled")
"""Sources that the workflow creates, and the last one that it downloads."""

DEFAULT_FILE = "config/config.yaml"

MOST_CELLS = 10_000
"""Most cells of a study."""

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$")]


Horizon = Annotated[str, AfterValidator(check_horizon)]
Horizons = Annotated[
    tuple[Horizon, ...],
    BeforeValidator(as_list, json_schema_input_type=Horizon | tuple[Horizon, ...]),
]


class EstimateConfig(Settings):
    """Lengths of the runs in the time table."""

    steps: PositiveInt = 500
    """Optimizer steps of the estimated run."""
    horizons: Horizons = ()
    """Lengths of further estimated runs: '10B tokens', '2000 steps', or 'chinchilla', 20 tokens per
    parameter."""


class BudgetConfig(Settings):
    """Limits for training: `plan` shows which cells fit; a launch above them needs `confirm`."""

    gpu_hours: PositiveFloat | None = None
    """GPU-hours of the cells that have still to be trained."""
    cost: PositiveFloat | None = None
    """Their cost, in the clusters' currency."""


class Evidence(Settings):
    """Speeds measured elsewhere."""

    file: ProjectPath
    """Path of the table or log."""
    format: Literal["csv", "throughput", KnownLog, "wandb"] = "csv"
    """csv: columns cluster, model, gpus and a speed; throughput: an earlier study's throughput.csv,
    next to its study.yaml; the others: a log of one run with that trainer, a trainer_state.json of
    Hugging Face's Trainer, or a CSV export of Weights & Biases."""
    by: str | None = None
    """Who measured, for 'Verified by ...' in the time table; null: the file's or study's name."""
    cluster: Name | None = None
    """For a log: the cluster, one of this study's."""
    model: Name | None = None
    """For a log: the model, one of this study's ladder."""
    gpus: PositiveInt | None = None
    """For a log: the GPU count."""
    variant: Name = "base"
    """For a log: the variant with its settings."""
    trainer: Name = DEFAULT_TRAINER
    """The trainer whose cells it counts for, one of this study's."""
    run: RunValues = Field(default={})
    """Settings of a run.yaml that differed from this study's `run`."""

    @model_validator(mode="after")
    def _a_log_has_its_cell(self) -> "Evidence":
        is_log = self.format not in ("csv", "throughput")
        if is_log and None in (self.cluster, self.model, self.gpus):
            expected = "expected the cluster, model and gpus of that run"
            raise RuleError(["format"], f"= {self.format} is the log of one run; {expected}")
        return self


class EvaluationTask(Settings):
    """A task of lm-evaluation-harness."""

    task: TaskName
    """Its name."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Solved examples in front of each question; null: the task's own number."""

    left_out: ClassVar[Mapping[str, str | LeftOut]] = {
        "dataset_kwargs": "lm_eval knows the data of its tasks; remove it",
    }


EvaluationTaskOrName = Annotated[
    EvaluationTask,
    BeforeValidator(
        lambda value: {"task": value} if isinstance(value, str) else value,
        json_schema_input_type=TaskName | EvaluationTask,
    ),
]


class EvaluateConfig(Settings):
    """Options of the target `evaluate`, which runs lm-evaluation-harness on the exported models."""

    tasks: tuple[EvaluationTaskOrName, ...] = ()
    """Tasks, such as hellaswag, or {task: nq_open, num_fewshot: 5}; `lm_eval ls tasks` lists
    them."""
    limit: PositiveFloat | None = None
    """Documents of each task, for a trial, or their fraction if below 1; null: all of them."""

    def by_fewshot(self) -> dict[int | None, list[str]]:
        """Return num_fewshot -> names of its tasks; one invocation of lm_eval takes one number."""
        groups = group_by(self.tasks, lambda task: task.num_fewshot)
        return {count: [task.task for task in tasks] for count, tasks in groups.items()}


class Study(Settings):
    """A study: the grid and the settings of its cells."""

    other_names: ClassVar[Mapping[str, str]] = {
        **{name: f"run.{key}" for name, key in places(RunConfig).items()},
        **names(
            {
                "study": "name",
                "results_dir": "output_dir dump_dir out_dir",
                "models": "model ladder",
                "clusters": "cluster",
                "clusters_run": "cluster_run run_by_cluster cluster_overrides",
                "grid": "cells matrix sweep",
                "grid[0].seed": "seed",
            }
        ),
    }

    study: Name
    """Name of the study, and of its folder below results_dir."""
    results_dir: WorkflowPath = "results"
    """Folder of all results; on a cluster, one on the scratch file system."""
    models: dict[Name, ModelConfig]
    """The ladder: name -> shape. In a study file, it may be a path of a file with the ladder."""
    clusters: dict[Name, ClusterConfig]
    """Name -> cluster. In a study file, it may be a path of a file with the clusters."""
    trainers: dict[Name, TrainerConfig] = Field(default={})
    """Name -> how that trainer is run. In a study file, it may be a path of a file with them."""
    corpora: tuple[Name, ...] = ()
    """Sources that the workflow writes into run.data.root_dir; others must already be there."""
    run: RunValues
    """Settings of every run: any key of a run.yaml except name, dump_dir, seed, device, gpu_name
    and model."""
    clusters_run: dict[Name, RunValues] = Field(default={})
    """Cluster -> overrides of `run` there; those of a variant override them."""
    variants: dict[Name, RunValues] = Field(default={})
    """Named overrides of `run` and of the model's shape."""
    grid: Annotated[list[GridEntry], Field(min_length=1)]
    """The cells."""
    placements: dict[str, Name] = Field(default={})
    """Cell of a block with `cluster: {any: ...}` -> its cluster; of other cells, it is decided when
    the study is planned."""
    estimate: EstimateConfig = EstimateConfig()
    """Lengths of the runs in the time table."""
    budget: BudgetConfig = BudgetConfig()
    """Limits for training."""
    confirm: str | None = None
    """Name of the study, to launch it above its budget; meant for `--config confirm=NAME`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Tasks for the exported models."""
    evidence: tuple[Evidence, ...] = ()
    """Speeds measured elsewhere, used for estimates along with the study's own."""
    document: FilePath | None = None
    """Markdown file in which the target `document` updates the time table, between two markers."""
    partial: bool = False
    """true: build the tables from existing runs, and train nothing."""

    @field_validator("grid")
    @classmethod
    def _is_no_larger(cls, grid: list[GridEntry]) -> list[GridEntry]:
        count = sum(entry.combinations for entry in grid)
        if count > MOST_CELLS:
            raise ValueError(f"found {count:,} cells; expected {MOST_CELLS:,} or fewer")
        return grid

    @field_validator("trainers")
    @classmethod
    def _has_ours(cls, trainers: dict[str, TrainerConfig]) -> dict[str, TrainerConfig]:
        return {DEFAULT_TRAINER: OURS, **trainers}

    @property
    def trainers_in_use(self) -> set[str]:
        """Names of the trainers in the grid and the evidence."""
        in_grid = {name for entry in self.grid for name in entry.trainer}
        return in_grid | {item.trainer for item in self.evidence}

    @property
    def folder(self) -> str:
        """Folder of this study's results."""
        return f"{self.results_dir}/{self.study}"

    def is_in(self, file: Path) -> bool:
        """Say whether a study.yaml has this study as it is now. Raises OSError."""
        return file.read_bytes() == self.to_yaml().encode()

    def to_yaml(self) -> str:
        """The study with its ladder, clusters and trainers written out.

        Without `partial`, which is about one invocation: it may run beside a complete one; and
        without `document`, on which nothing depends that is made of it.
        """
        left_out = {"partial", "document"} | (set() if self.placements else {"placements"})
        values = self.model_dump(mode="json", exclude=left_out)
        # A trainer that is described later leaves the files of other studies as they are.
        used = {name: values["trainers"][name] for name in sorted(self.trainers_in_use)}
        if self.trainers[DEFAULT_TRAINER] == OURS:
            used.pop(DEFAULT_TRAINER, None)
        values["trainers"] = used
        if not used:
            del values["trainers"]
            for block in (*values["grid"], *values["evidence"]):
                del block["trainer"]
        return dump_yaml(values)
