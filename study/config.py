"""Study files: what a user edits under config/, as typed values.

`Study` is complete by itself: written out with `to_yaml` and read back it expands to the same grid
anywhere. study/load.py reads one with the ladder and the clusters that it names.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
)

from study.horizon import check_horizon
from trainer.config import Device, ModelConfig, Settings
from trainer.settings import IsNumber
from trainer.yaml_files import dump_yaml

CORPORA = ("python_stdlib", "fineweb_edu_10bt_shuffled")
"""Sources that the workflow can make (the first) or download (the second) by itself."""

DEFAULT_FILE = "config/config.yaml"

# Names become folders of the results, so they hold nothing that a path or a shell takes apart.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:-]*$")]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_names(value: Any) -> Any:
    return [str(item) if isinstance(item, int) else item for item in _as_list(value)]


Names = Annotated[list[Name], BeforeValidator(_as_names), Field(min_length=1)]
GpuCount = Annotated[PositiveInt, IsNumber]
GpuCounts = Annotated[list[GpuCount], BeforeValidator(_as_list), Field(min_length=1)]
Seeds = Annotated[list[Annotated[int, IsNumber]], BeforeValidator(_as_list), Field(min_length=1)]


class SlurmConfig(Settings):
    """How a partition is asked for GPUs."""

    account: str | None = None
    """Account that is charged, `--account`; null where the cluster keeps no accounts."""
    partition: str
    """Partition, `--partition`."""
    gpu_request: Literal["gres", "gpus-per-task", "gpus-per-node"]
    """gres: `--gres=gpu:N`; gpus-per-task: `--gpus-per-task=N --ntasks=1`; gpus-per-node: one task
    for each node. Jobs of several nodes always use the last."""
    gpu_type: str | None = None
    """Type in the request, as in `--gres=gpu:a100:1`; null asks for any."""
    mem_gib: PositiveInt | Literal["auto"] = "auto"
    """Memory of each node, `--mem`, GiB; auto: as predicted. A retry asks for as much again."""
    max_mem_gib: PositiveInt | None = None
    """Memory that no retry exceeds, GiB: a node's; null where it is not known."""
    runtime_min: PositiveInt | Literal["auto"] = "auto"
    """Time limit, `--time`, minutes; auto: the upper end of the run's time estimate and a margin. A
    retry asks for as much again."""
    max_runtime_min: PositiveInt | None = None
    """Time limit that no retry exceeds, minutes: the partition's; null where it is not known."""
    warn_s: Annotated[int, Field(ge=0, le=65535)] = 60
    """Seconds before the time limit at which a run is told to save and leave; 0 for never."""
    max_nodes: PositiveInt = 1
    """Largest number of nodes one job may have."""
    qos: str | None = None
    """Quality of service, `--qos`."""
    constraint: str | None = None
    """Node features, `--constraint`."""
    extra: str = ""
    """More flags for sbatch, verbatim."""


class RatesConfig(Settings):
    """What one GPU reaches in each kind of work, as `benchmarks.roofline --measure` prints it."""

    dtype: Literal["bf16", "fp32"] = "bf16"
    """Arithmetic that they were measured in; runs in another one have no roofline."""
    matmul_tflops: PositiveFloat
    """Large products of matrices, TFLOP/s."""
    copy_tb_s: PositiveFloat
    """Copies in its memory, bytes read and bytes written together, TB/s."""
    attention_forward_tflops: PositiveFloat
    """Fused causal attention, TFLOP/s: 2 * seq_len * width FLOPs a token, half of them all."""
    attention_backward_tflops: PositiveFloat
    """Its backward pass, TFLOP/s: 2.5 times the FLOPs, as it computes the scores again."""


class ClusterConfig(Settings):
    """A place where runs go: this machine, or a Slurm partition."""

    device: Device = "cuda"
    """What a run trains on. On a CPU each process counts as one GPU."""
    gpu_name: str
    """GPU type, such as A100: words that the GPU's own name holds. On a CPU, a name for people."""
    peak_tflops: PositiveFloat | None = None
    """Peak dense bf16 TFLOP/s of one GPU, for MFU and the roofline; null: MFU stays empty."""
    memory_gib: PositiveFloat | None = None
    """Memory of one GPU, GiB; null where it is not known, and no plan is held against it."""
    memory_tb_s: PositiveFloat | None = None
    """Bandwidth of its memory, TB/s; null: from the peak, at 250 FLOP a byte."""
    rates: RatesConfig | None = None
    """What its kernels reach, for the roofline of a step; null where nobody measured it."""
    link_gb_s: PositiveFloat | None = None
    """Bandwidth of one GPU to the others of its node, GB/s; null: a tenth of its memory's."""
    network_gb_s: PositiveFloat | None = None
    """Bandwidth of one GPU to other nodes, GB/s; null: a tenth of that inside its node."""
    price_per_gpu_hour: NonNegativeFloat | None = None
    """Price of one GPU for an hour, in `currency`; null where there is none."""
    currency: str = "USD"
    """What prices are in."""
    power_w: PositiveFloat | None = None
    """Measured power of one GPU at work, with its share of the node, W; null: not known."""
    gpus_per_node: PositiveInt
    """GPUs of one node."""
    cpus_per_gpu: PositiveInt = 1
    """CPU cores for each GPU's process, and its threads (`distributed.threads`)."""
    setup: tuple[str, ...] = ()
    """Shell lines run before the launch, such as `module load cuda`."""
    scratch: str | None = None
    """Folder for temporary files and caches, such as `/scratch/$USER`; null leaves them where the
    machine has them. Results go to the study's results_dir."""
    slurm: SlurmConfig | None = None
    """The Slurm request; null means this machine."""


class GridEntry(Settings):
    """A block of cells: the product of its axes. Each axis takes one value or a list."""

    cluster: Names
    """Names from the clusters file."""
    model: Names
    """Names from the models file."""
    gpus: GpuCounts
    """GPU counts. On a cluster without GPUs: processes."""
    variant: Names = Field(default=["base"])
    """Named sets of overrides from `variants`; `base` is the empty one."""
    seed: Seeds = Field(default=[42])
    """Seeds of the runs."""
    global_batch_size: PositiveInt | None = None
    """Strong scaling: sequences per step over all GPUs, kept by adapting batch and accumulation.
    null means weak scaling: run.data.batch_size sequences on every GPU."""
    measure: bool = True
    """false: the cell stands in the time table as an estimate and is never run."""


class EstimateConfig(Settings):
    """What the time table answers."""

    steps: PositiveInt = 500
    """Optimizer steps of the run whose time is given."""
    horizons: tuple[Annotated[str, AfterValidator(check_horizon)], ...] = ()
    """More runs to give the time of: '10B tokens', '2000 steps', or 'chinchilla', 20 tokens a
    parameter."""


class BudgetConfig(Settings):
    """What the study may use: `plan` says which cells fit, a launch above it needs `confirm`."""

    gpu_hours: PositiveFloat | None = None
    """GPU-hours of the cells that are still to train."""
    cost: PositiveFloat | None = None
    """Their cost, in the clusters' currency."""


class Evidence(Settings):
    """Speeds that were measured elsewhere."""

    file: str
    """Path of the table or log."""
    format: Literal["csv", "throughput", "lingua", "torchtitan", "nanogpt"] = "csv"
    """csv: columns cluster, model, gpus and a speed; throughput: an earlier study's throughput.csv,
    with its study.yaml beside it; the others: a log of one run of that trainer."""
    by: str | None = None
    """Who measured, for the time table: Verified by ...; null: the file's or study's name."""
    cluster: Name | None = None
    """A log: the cluster, of this study's."""
    model: Name | None = None
    """A log: the model, of this study's ladder."""
    gpus: PositiveInt | None = None
    """A log: the GPUs."""
    variant: Name = "base"
    """A log: the variant whose settings it had."""
    run: dict[str, Any] = Field(default={})
    """Settings of a run.yaml in which it differed from this study's `run`."""


class EvaluateConfig(Settings):
    """What the target `evaluate` runs on the exported models: lm-evaluation-harness, `lm_eval`."""

    tasks: tuple[TaskName, ...] = ()
    """Tasks, such as hellaswag; `lm_eval ls tasks` lists them."""
    limit: PositiveFloat | None = None
    """Documents of each task, for a trial, or below 1 their fraction; null: all of them."""


class Study(Settings):
    """A study: the grid and everything its cells are made of."""

    study: Name
    """Name of the study, and of its folder below results_dir."""
    results_dir: str = "results"
    """Folder of all results; on a cluster, a place on the scratch file system."""
    models: dict[Name, ModelConfig]
    """The ladder: name -> shape. In a study file: the path of the file that holds it."""
    clusters: dict[Name, ClusterConfig]
    """Name -> cluster. In a study file: the path of the file that holds them."""
    corpora: tuple[Name, ...] = ()
    """Sources that the workflow writes into run.data.root_dir itself; others must be there."""
    run: dict[str, Any]
    """Settings of every run: any key of a run.yaml but name, dump_dir, seed and model."""
    variants: dict[Name, dict[str, Any]] = Field(default={})
    """Named overrides of `run`, and of the model's shape."""
    grid: Annotated[list[GridEntry], Field(min_length=1)]
    """The cells."""
    estimate: EstimateConfig = EstimateConfig()
    """What the time table answers."""
    budget: BudgetConfig = BudgetConfig()
    """What the training may use."""
    confirm: str | None = None
    """Name of the study, to launch it above its budget; meant for `--config confirm=NAME`."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Tasks for the exported models."""
    evidence: tuple[Evidence, ...] = ()
    """Speeds measured elsewhere, that estimates rest on beside the study's own."""
    document: str | None = None
    """Markdown file that the target `document` keeps the time table in, between two markers."""
    partial: bool = False
    """true: build tables from the runs that exist, and train nothing."""

    @property
    def folder(self) -> str:
        """Folder of this study's results."""
        return f"{self.results_dir}/{self.study}"

    def to_yaml(self) -> str:
        """The study with its ladder and clusters written out."""
        return dump_yaml(self.model_dump(mode="json"))
