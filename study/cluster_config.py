"""A cluster of a study: where runs are executed, and how Slurm is asked for it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from study.value_types import split_words
from trainer.config import Device
from trainer.gpu_state import is_gpu
from trainer.other_names import names
from trainer.paths import JobPath, check_path
from trainer.problems import RuleError
from trainer.settings import Settings, Text
from trainer.yaml_files import shorten


def split_command(text: str) -> list[str]:
    """Return the words of a command, whose variables are those of a job, see `in_shell`.

    Raises ValueError like `split_words`, and for a word that `check_path` refuses.
    """
    return [check_path(word) for word in split_words(text)]


def end_lines(setup: Sequence[str]) -> list[str]:
    """Return shell lines so that a `;` may follow each, also after a comment or a line break."""
    lines = [line for line in setup if line.strip()]
    return [f"{line}\n:" if "#" in line or "\n" in line else line for line in lines]


def _check_command(text: str) -> str:
    split_command(text)
    return text


JobCommand = Annotated[str, AfterValidator(_check_command)]
"""A command whose variables are those of a job."""

GpuType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+$")]

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


def _check_word(text: str) -> str:
    if not re.fullmatch(r"\S+", text):
        raise ValueError(f"found {shorten(text)!r}; expected a value without white space, or null")
    return text


Word = Annotated[str, AfterValidator(_check_word)]
"""A value of one of sbatch's options; an empty one, or one with a line end, would break the
request."""


def _check_log(path: str) -> str:
    """Check the path of a job's log: what Slurm puts in must be known beforehand, for links to it.

    Raises ValueError.
    """
    folder, _, name = path.rpartition("/")
    patterns = [found for found in re.findall(r"%.?", name) if found != "%j"]
    patterns += re.findall(r"%.?", folder)
    if patterns:
        expected = "%j alone, in the file's name"
        raise ValueError(f"found {path!r}, with {patterns[0]}; expected {expected}")
    return path


LogPath = Annotated[str, Field(min_length=1), AfterValidator(_check_log)]
"""Path of a job's log, with %j for the job's id."""


class SlurmDataConfig(Settings):
    """How to request the jobs without a GPU: corpora, tokenising, exports."""

    local: bool = False
    """true: run them where Snakemake runs."""
    partition: Word | None = None
    """Partition; null: the cluster's, with its QOS, constraint and other flags."""
    account: Word | None = None
    """Account; null: the cluster's."""
    qos: Word | None = None
    """Quality of service; null: the cluster's, in its partition."""
    cpus: PositiveInt = 4
    """CPU cores."""
    mem_gib: PositiveInt = 16
    """Memory, GiB; at most `max_mem_gib` in the cluster's partition."""
    runtime_min: PositiveInt = 240
    """Time limit, minutes or a time of Slurm; at most `max_runtime_min` in the cluster's
    partition."""
    extra: str = ""
    """More flags for sbatch, verbatim."""

    @field_validator("runtime_min", mode="before")
    @classmethod
    def _take_slurm_times(cls, value: Any) -> Any:
        """Accept a time as `sbatch --time` does."""
        return minutes_of(value) if isinstance(value, str) else value


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

    account: Word | None = None
    """Account to charge, `--account`; null if the cluster has no accounts."""
    partition: Word
    """Partition, `--partition`."""
    gpu_request: Literal["gres", "gpus-per-task", "gpus-per-node", "none"]
    """gres: `--gres=gpu:N`; gpus-per-task: `--gpus-per-task=N --ntasks=1`; gpus-per-node: one task
    for each node, which jobs of several nodes use in place of the first two; none: no GPUs are
    requested, for a CPU partition or one that allocates whole nodes."""
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
    known; then as much as Slurm accepts."""
    warn_s: Annotated[int, Field(ge=0, le=65535)] = 60
    """Seconds before the time limit at which a run is signalled to save and stop; 0: never."""
    max_nodes: PositiveInt = 1
    """Maximum number of nodes for one job."""
    qos: Word | None = None
    """Quality of service, `--qos`."""
    constraint: str | None = None
    """Node features, `--constraint`."""
    reservation: Word | None = None
    """Reservation, `--reservation`."""
    clusters: Word | None = None
    """Slurm cluster of the partition, `--clusters`, if it is not the default one."""
    nodelist: Word | None = None
    """Nodes to use, `--nodelist`."""
    exclude: Word | None = None
    """Nodes to avoid, `--exclude`."""
    extra: str = ""
    """More flags for sbatch, verbatim."""
    output: LogPath | None = None
    """File for what a job prints, `--output`, with %j for the job's id; null: below the study's
    folder of results."""
    error: LogPath | None = None
    """File for its errors, `--error`; null: the same file."""
    data: SlurmDataConfig = SlurmDataConfig()
    """The jobs without a GPU; the grid's first Slurm cluster decides for all."""

    @model_validator(mode="after")
    def _check_gpu_type(self) -> Self:
        if self.gpu_type is not None and self.gpu_request == "none":
            message = f"= {self.gpu_type} is of a request that `gpu_request: none` leaves out"
            raise RuleError(["gpu_type", "gpu_request"], message)
        return self

    @model_validator(mode="after")
    def _warns_after_the_start(self) -> Self:
        for key in ("runtime_min", "max_runtime_min"):
            minutes = getattr(self, key)
            if isinstance(minutes, int) and self.warn_s >= 60 * minutes:
                message = f"= {self.warn_s} is all of {key} = {minutes}; a run would stop at once"
                raise RuleError(["warn_s", key], message)
        return self

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
            "container": "image wrapper prefix launch_prefix",
        }
    )

    device: Device = "cuda"
    """Device to train on. On a CPU, each process counts as one GPU."""
    gpu_name: Text
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
    container: JobCommand | None = None
    """Command that runs another in a container, such as `apptainer exec --nv torch.sif`; the
    command of a run, or of another job on a GPU, is appended. null: no container."""
    scratch: JobPath | None = None
    """Folder for temporary files and caches, such as `/scratch/$USER`; null: the machine's
    defaults. Results go to the study's results_dir."""
    slurm: SlurmConfig | None = None
    """The Slurm request; null: this machine."""

    def has_gpu(self, found: str | None) -> bool:
        """Return whether a run was on this type of GPU, by the name that it recorded, if any.

        The cluster may have been edited since. The name of a CPU is for people.
        """
        return self.device == "cpu" or found is None or is_gpu(found, self.gpu_name)

    def nodes(self, gpus: int) -> int:
        """Return the number of nodes of a run on `gpus` GPUs."""
        return -(-gpus // self.gpus_per_node)

    def gpus_on_node(self, gpus: int) -> int:
        """Return the number of GPUs that a run on `gpus` GPUs has in each node."""
        return min(gpus, self.gpus_per_node)

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
