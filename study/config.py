"""Study files: what a user edits under config/, as typed values.

`Study` is complete by itself: written out with `to_yaml` and read back it expands to the same grid
anywhere. study/load.py reads one with the ladder and the clusters that it names.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from study.horizon import check_horizon, check_tokens
from study.project import of_project
from study.trainers import DEFAULT_TRAINER, OURS, KnownLog, TrainerConfig
from trainer.config import Device, ModelConfig, RunConfig, expand_paths
from trainer.other_names import names
from trainer.paths import FilePath, JobPath
from trainer.problems import RuleError
from trainer.settings import IsNumber, LeftOut, Settings, places
from trainer.yaml_files import dump_yaml, shorten

CORPORA = ("python_stdlib", "python_topics", "fineweb_edu_10bt_shuffled")
"""Sources that the workflow creates, and the last one that it downloads."""

DEFAULT_FILE = "config/config.yaml"

# Names become folders of the results, so they contain no special characters of paths or shells.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

GpuType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$")]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_names(value: Any) -> Any:
    return [str(item) if isinstance(item, int) else item for item in _as_list(value)]


def brace_in(path: str) -> str | None:
    """Return what is wrong with a path that Snakemake would read as a pattern, or None."""
    if "{" not in path and "}" not in path:
        return None
    found = shorten(repr(path))
    return f"found {found}; expected no braces, which are wildcards in Snakemake's file names"


def _without_braces(path: str) -> str:
    problem = brace_in(path)
    if problem is not None:
        raise ValueError(problem)
    return path


WorkflowPath = Annotated[FilePath, AfterValidator(_without_braces)]
"""A path of which Snakemake is told."""

ProjectPath = Annotated[WorkflowPath, AfterValidator(of_project)]
"""Such a path, also of a file that the project comes with."""

RunValues = Annotated[dict[str, Any], AfterValidator(expand_paths)]

Names = Annotated[list[Name], BeforeValidator(_as_names), Field(min_length=1)]


class AnyOf(Settings):
    """Several clusters, of which one is chosen for each cell; see study/placements.py."""

    any: Names
    """Names from the clusters file."""

    @field_validator("any")
    @classmethod
    def _has_no_name_twice(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError(f"found {', '.join(names)}; expected each name once")
        return names


ClusterName = Annotated[
    Annotated[Name, Tag("name")] | Annotated[AnyOf, Tag("any")],
    Discriminator(lambda value: "any" if isinstance(value, Mapping | AnyOf) else "name"),
]
ClusterNames = Annotated[list[ClusterName], BeforeValidator(_as_names), Field(min_length=1)]
Count = Annotated[PositiveInt, IsNumber]
Counts = Annotated[list[Count], BeforeValidator(_as_list), Field(min_length=1)]
Tokens = Annotated[PositiveFloat | str, BeforeValidator(check_tokens)]
TokenCounts = Annotated[list[Tokens], BeforeValidator(_as_list), Field(min_length=1)]
FlopCounts = Annotated[
    list[Annotated[PositiveFloat, IsNumber]], BeforeValidator(_as_list), Field(min_length=1)
]
SweptValues = Annotated[list[Any], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, IsNumber]], BeforeValidator(_as_list), Field(min_length=1)]


SLURM_TIME = re.compile(
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>\d+)(:(?P<seconds>\d+))?)?"
    r"|(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)"
    r"|(?P<min>\d+)(:(?P<sec>\d+))?",
    re.ASCII,
)
"""The forms of `sbatch --time`: days-hours[:minutes[:seconds]], hours:minutes:seconds and
minutes[:seconds]."""


def minutes_of(time: str) -> int:
    """Return the minutes of a Slurm time, rounded up, as Slurm does. Raises ValueError."""
    found = SLURM_TIME.fullmatch(time) if len(time) < 40 else None
    if found is None:
        expected = "minutes, or a time of Slurm such as 12:00:00 or 1-12:00:00"
        raise ValueError(f"found {shorten(repr(time))}; expected {expected}")
    parts = {name: int(value or 0) for name, value in found.groupdict().items()}
    hours = 24 * parts["days"] + parts["hours"] + parts["h"]
    minutes = 60 * hours + parts["minutes"] + parts["m"] + parts["min"]
    return minutes + math.ceil((parts["seconds"] + parts["s"] + parts["sec"]) / 60)


class SlurmDataConfig(Settings):
    """How to request the jobs without a GPU: corpora, tokenising, exports."""

    local: bool = False
    """true: run them where Snakemake runs."""
    partition: str | None = None
    """Partition; null: the cluster's, with its QOS, constraint and other flags."""
    account: str | None = None
    """Account; null: the cluster's."""
    qos: str | None = None
    """Quality of service; null: the cluster's, in its partition."""
    cpus: PositiveInt = 4
    """CPU cores."""
    mem_gib: PositiveInt = 16
    """Memory, GiB; at most `max_mem_gib` in the cluster's partition."""
    runtime_min: PositiveInt = 240
    """Time limit, minutes; at most `max_runtime_min` in the cluster's partition."""
    extra: str = ""
    """More flags for sbatch, verbatim."""


class SlurmConfig(Settings):
    """How to request GPUs from a partition."""

    other_names: ClassVar[Mapping[str, str]] = names(
        {
            "runtime_min": "time time_limit walltime runtime timeout_min timeout",
            "max_runtime_min": "max_time max_runtime",
            "mem_gib": "mem memory mem_gb memory_gb mem_mb",
            "max_nodes": "nodes",
            "gpu_type": "gpu_model gpu",
            "extra": "slurm_extra args extra_args",
        }
    )

    account: str | None = None
    """Account to charge, `--account`; null if the cluster has no accounts."""
    partition: str
    """Partition, `--partition`."""
    gpu_request: Literal["gres", "gpus-per-task", "gpus-per-node"]
    """gres: `--gres=gpu:N`; gpus-per-task: `--gpus-per-task=N --ntasks=1`; gpus-per-node: one task
    for each node. Jobs of several nodes always use the last."""
    gpu_type: GpuType | None = None
    """GPU type in the request, as in `--gres=gpu:a100:1` and as sinfo shows it; null: any."""
    mem_gib: PositiveInt | Literal["auto"] = "auto"
    """Memory on each node, `--mem`, GiB; auto: as predicted. A retry after running out adds the
    same amount."""
    max_mem_gib: PositiveInt | None = None
    """Maximum of `mem_gib` for retries, GiB: a node's memory; null if it is not known."""
    runtime_min: PositiveInt | Literal["auto"] = "auto"
    """Time limit, `--time`, minutes or a time of Slurm such as "12:00:00"; auto: the upper end of
    the run's time estimate and a margin. A retry after a time-out adds the same amount."""
    max_runtime_min: PositiveInt | None = None
    """Maximum of `runtime_min` for retries, minutes: the partition's limit; null if it is not
    known."""
    warn_s: Annotated[int, Field(ge=0, le=65535)] = 60
    """Seconds before the time limit at which a run is signalled to save and stop; 0: never."""
    max_nodes: PositiveInt = 1
    """Maximum number of nodes for one job."""
    qos: str | None = None
    """Quality of service, `--qos`."""
    constraint: str | None = None
    """Node features, `--constraint`."""
    reservation: str | None = None
    """Reservation, `--reservation`."""
    clusters: str | None = None
    """Slurm cluster of the partition, `--clusters`, if it is not the default one."""
    nodelist: str | None = None
    """Nodes to use, `--nodelist`."""
    exclude: str | None = None
    """Nodes to avoid, `--exclude`."""
    extra: str = ""
    """More flags for sbatch, verbatim."""
    output: str | None = None
    """File for what a job prints, `--output`, with %j for the job's id; null: below the study's
    folder of results."""
    error: str | None = None
    """File for its errors, `--error`; null: the same file."""
    data: SlurmDataConfig = SlurmDataConfig()
    """The jobs without a GPU; the grid's first Slurm cluster decides for all."""

    @field_validator("runtime_min", "max_runtime_min", mode="before")
    @classmethod
    def _take_slurm_times(cls, value: Any) -> Any:
        """Accept a time as `sbatch --time` does."""
        return minutes_of(value) if isinstance(value, str) and value != "auto" else value


class RatesConfig(Settings):
    """Measured rates of one GPU, as `benchmarks.roofline --measure` prints them."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """dtype of the measured operations; runs in a different dtype have no roofline."""
    matmul_tflops: PositiveFloat
    """Large matmuls, TFLOP/s."""
    copy_tb_s: PositiveFloat
    """Copies within its memory, bytes read plus bytes written, TB/s."""
    attention_forward_tflops: PositiveFloat
    """Fused causal attention, TFLOP/s: 2 * seq_len * width FLOPs a token, half of those without the
    causal mask."""
    attention_backward_tflops: PositiveFloat
    """Its backward pass, TFLOP/s: 2.5 times the FLOPs, as it recomputes the scores."""


class ClusterConfig(Settings):
    """Where runs are executed: this machine, or a Slurm partition."""

    other_names: ClassVar[Mapping[str, str]] = names(
        {
            "gpu_name": "gpu gpu_type gpu_model name",
            "gpus_per_node": "gpus num_gpus n_gpus",
            "cpus_per_gpu": "cpus cores cpus_per_task",
            "peak_tflops": "tflops peak_flops peak",
            "memory_gib": "memory gpu_memory memory_gb",
            "setup": "env environment modules module",
        }
    )

    device: Device = "cuda"
    """Device to train on. On a CPU, each process counts as one GPU."""
    gpu_name: str
    """GPU type, such as A100: words in the GPU's own name. On a CPU, a name for people."""
    peak_tflops: PositiveFloat | None = None
    """Peak dense bf16 TFLOP/s of one GPU, for MFU and time estimates; null: MFU stays empty."""
    memory_gib: PositiveFloat | None = None
    """Memory of one GPU, GiB, to warn of runs that may not fit; null if it is not known."""
    memory_tb_s: PositiveFloat | None = None
    """Bandwidth of its memory, TB/s; null: from the peak, at 250 FLOPs per byte."""
    rates: RatesConfig | None = None
    """Measured rates of its kernels, for the roofline of a step; null if they were not measured."""
    link_gb_s: PositiveFloat | None = None
    """Bandwidth of one GPU to the others in its node, GB/s; null: a tenth of its memory's."""
    network_gb_s: PositiveFloat | None = None
    """Bandwidth of one GPU to other nodes, GB/s; null: a tenth of that inside its node."""
    price_per_gpu_hour: NonNegativeFloat | None = None
    """Price of one GPU for an hour, in `currency`; null if there is none."""
    currency: str = "USD"
    """Currency of prices."""
    power_w: PositiveFloat | None = None
    """Measured power of one GPU under load, with its share of the node, W; null: not known."""
    gpus_per_node: PositiveInt
    """GPUs in one node."""
    cpus_per_gpu: PositiveInt = 1
    """CPU cores for each GPU's process, and its threads (`distributed.threads`)."""
    setup: tuple[str, ...] = ()
    """Shell lines to run before the launch, such as `module load cuda`."""
    scratch: JobPath | None = None
    """Folder for temporary files and caches, such as `/scratch/$USER`; null: the machine's
    defaults. Results go to the study's results_dir."""
    slurm: SlurmConfig | None = None
    """The Slurm request; null: this machine."""

    def nodes(self, gpus: int) -> int:
        """Return the number of nodes of a run on `gpus` GPUs."""
        return -(-gpus // self.gpus_per_node)

    def why_impossible(self, name: str, gpus: int) -> str | None:
        """Return why a run on `gpus` GPUs is impossible here, or None if it is possible.

        `name` is the cluster's.
        """
        per_node = self.gpus_per_node
        nodes = self.slurm.max_nodes if self.slurm else 1
        if gpus > per_node * nodes:
            held = f"{nodes} x {per_node}" if nodes > 1 else str(per_node)
            return f"found {gpus} GPUs; a run on cluster '{name}' can have at most {held}"
        if gpus > per_node and gpus % per_node:
            return f"found {gpus} GPUs; several nodes of '{name}' need a multiple of {per_node}"
        return None


PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")


class Branch(Settings):
    """The checkpoint of another cell from which the cells of a block start."""

    cell: Annotated[str, Field(min_length=1)]
    """The other cell: its variant, with the values of further axes as in its folder, if cluster,
    model, GPU count and seed are the same; otherwise its whole name."""
    at: PositiveInt | str = "100%"
    """Its step: a number, a percentage of its steps, or an expression of the facts of the cell that
    starts there, such as 0.8 * steps."""

    @property
    def share(self) -> float | None:
        """The percentage as a fraction; None if `at` is something else."""
        found = PERCENT.fullmatch(self.at) if isinstance(self.at, str) else None
        return None if found is None else float(found[1]) / 100


LENGTHS = ("steps", "tokens", "flops")
"""Keys of a block for the length of its runs, of which it has at most one."""


class GridEntry(Settings):
    """A block of cells: the product of its axes. Each axis takes one value or a list."""

    model_config = ConfigDict(serialize_by_alias=True)

    other_names: ClassVar[Mapping[str, str]] = names(
        {
            "cluster": "clusters",
            "model": "models model_size",
            "gpus": "gpu num_gpus n_gpus world_size",
            "variant": "variants",
            "seed": "seeds",
            "trainer": "trainers",
            "global_batch_size": "batch_size global_batch",
            "tokens": "token_budget train_tokens",
            "flops": "compute flop_budget",
            "sweep": "sweeps grid over",
            "paired": "zip zipped",
            "where": "if filter",
            "from": "branch continue_from",
        }
    )

    cluster: ClusterNames
    """Names from the clusters file; `any: [a, b]`: whichever of them ends the run first."""
    model: Names
    """Names from the models file."""
    gpus: Counts
    """GPU counts; on a cluster without GPUs, numbers of processes."""
    variant: Names = Field(default=["base"])
    """Named overrides from `variants`; `base` has none."""
    trainer: Names = Field(default=[DEFAULT_TRAINER])
    """Names from the trainers file."""
    seed: Seeds = Field(default=[42])
    """Seeds of the runs."""
    repeats: PositiveInt = 1
    """Measure each cell this many times: with its seed and those that follow it."""
    steps: Counts | None = None
    """Lengths of the runs, optimizer steps; null: run.steps, or that of the variant."""
    tokens: TokenCounts | None = None
    """Lengths of the runs in tokens, such as 10B, or 20N for 20 per parameter; rounded to whole
    steps."""
    flops: FlopCounts | None = None
    """Lengths of the runs in training FLOPs, such as 1e18, by the formula of MFU; rounded to whole
    steps."""
    sweep: dict[str, SweptValues] = Field(default={})
    """Dotted key of a run.yaml -> its values, an axis each."""
    paired: bool = False
    """Take the lists of the block together, first with first, instead of crossing them; `seed` is
    crossed all the same."""
    where: str | None = None
    """Condition on a cell's facts, such as "params < 1e9"; cells that do not meet it are left
    out."""
    from_: Branch | None = Field(default=None, alias="from")
    """Start from another cell's checkpoint: with its weights, optimizer state, step and position in
    the data. null: from the beginning."""
    global_batch_size: PositiveInt | None = None
    """Strong scaling: sequences per step over all GPUs, by adapting batch size and gradient
    accumulation. null: weak scaling, with run.data.batch_size sequences on every GPU."""
    measure: bool = True
    """false: the cell is in the time table as an estimate and is never run."""

    @model_validator(mode="after")
    def _has_one_length(self) -> "GridEntry":
        given = [key for key in LENGTHS if getattr(self, key) is not None]
        given += ["sweep"] if given and "steps" in self.sweep else []
        if len(given) > 1:
            last = "steps in sweep" if given[-1] == "sweep" else given[-1]
            message = f"the runs' length is set by {given[0]} and by {last}; remove one of them"
            raise RuleError([given[-1]], message)
        return self

    @model_validator(mode="after")
    def _repeats_one_seed(self) -> "GridEntry":
        if self.repeats > 1 and len(self.seed) > 1:
            message = f"= {self.repeats} counts up from one seed; found {len(self.seed)} seeds"
            raise RuleError(["repeats", "seed"], message)
        return self

    @model_validator(mode="after")
    def _lists_match(self) -> "GridEntry":
        counts = {key: len(values) for key, values in self.lists().items()}
        counts = {key: count for key, count in counts.items() if count > 1}
        if self.paired and len(set(counts.values())) > 1:
            found = ", ".join(f"{key} has {count}" for key, count in counts.items())
            raise RuleError(["paired"], f"needs lists of one length; {found}")
        return self

    def lists(self) -> dict[str, list[Any]]:
        """Return axis -> values, of all but the seeds."""
        axes = {
            key: getattr(self, key)
            for key in ("cluster", "model", "gpus", "variant", "trainer", *LENGTHS)
        }
        return {key: values for key, values in axes.items() if values is not None} | self.sweep

    @property
    def seeds(self) -> list[int]:
        """The seeds of each cell of the block."""
        return [seed + number for seed in self.seed for number in range(self.repeats)]

    @property
    def combinations(self) -> int:
        """Number of cells of the block, before `where`."""
        counts = [len(values) for values in self.lists().values()]
        return len(self.seeds) * (max(counts) if self.paired else math.prod(counts))


class EstimateConfig(Settings):
    """Lengths of the runs in the time table."""

    steps: PositiveInt = 500
    """Optimizer steps of the estimated run."""
    horizons: tuple[Annotated[str, AfterValidator(check_horizon)], ...] = ()
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
        groups: dict[int | None, list[str]] = {}
        for task in self.tasks:
            groups.setdefault(task.num_fewshot, []).append(task.task)
        return groups


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

    def to_yaml(self) -> str:
        """The study with its ladder, clusters and trainers written out.

        Without `partial`, which is about one invocation: it may run beside a complete one.
        """
        left_out = {"partial"} if self.placements else {"partial", "placements"}
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
