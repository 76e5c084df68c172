"""The files of a run: one definition for the writer and every reader. Imports no torch.

`Record` is a line of metrics.jsonl, `Evaluation` a line of metrics.eval.jsonl, `RunSummary` is
run.json, `Failure` is failure.json. An alias is the name in the file; keys with lingua's meaning
have lingua's names.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from trainer.settings import Settings

METRICS = "metrics.jsonl"
EVALUATIONS = "metrics.eval.jsonl"
SUMMARY = "run.json"
FAILURE = "failure.json"
CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a run's folder, unless the settings name another."""
EXPORT, EVALUATION = "export", "evaluation"
"""Folders that a study makes of a run's newest checkpoint, in the run's folder."""
CONFIG = "run.yaml"
"""File name of the complete settings, in a run's folder and in its checkpoints."""

EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to stop before its end (EX_TEMPFAIL)."""

Status = Literal["running", "completed", "preempted", "failed"]
Outcome = Literal["trained", "diverged"]


def checkpoint_name(step: int) -> str:
    """Return the name of the folder of a checkpoint."""
    return f"{step:010d}"


def finite(value: float | None) -> float | None:
    """Return a finite number as it is, else None: JSON has neither NaN nor infinity."""
    return value if value is not None and math.isfinite(value) else None


class Written(Settings):
    """What a trainer writes. Unknown keys, of other versions, are ignored."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    def to_json(self, indent: int | None = None) -> str:
        """The text in the file."""
        return self.model_dump_json(by_alias=True, indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """The values under their names in the file."""
        return self.model_dump(by_alias=True)


class SlowRank(Written):
    """A rank that the others wait for; see trainer/loop/slow_ranks.py."""

    rank: NonNegativeInt
    """Its number."""
    host: str
    """Its machine."""
    part: Literal["data", "forward", "clock"]
    """What is slow: waiting for data, its forward pass, or its GPU's clock."""
    share: NonNegativeFloat
    """How much longer that takes than on the median rank, in step times."""


class Record(Written):
    """One line of metrics.jsonl: an interval of steps.

    `time/step_s` excludes checkpoints and evaluations, and includes waiting for data.
    """

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step at the interval's end."""
    loss: Annotated[float | None, Field(alias="loss/out")]
    """Training loss, nats per token, mean over the interval's steps; None if not finite."""
    loss_of_step: Annotated[float | None, Field(alias="loss/step")] = None
    """Training loss of the last step alone."""
    rate: Annotated[float | None, Field(alias="optim/lr")] = None
    """Learning rate of the last step."""
    grad_norm: Annotated[float | None, Field(alias="optim/grad_norm")] = None
    """Norm of the last step's gradients, before clipping."""
    tokens: Annotated[PositiveInt, Field(alias="optim/total_tokens")]
    """Tokens since the start of the run."""
    epoch: Annotated[float | None, Field(alias="data/epoch")] = None
    """Epochs of the source that was repeated most."""
    reserved_gib: Annotated[NonNegativeFloat | None, Field(alias="memory/max_reserved_gib")] = None
    """Peak memory that the GPU's allocator has reserved, GiB; None on a CPU."""
    tokens_per_s_per_gpu: Annotated[NonNegativeFloat | None, Field(alias="speed/wps")] = None
    """Tokens per second and GPU."""
    tokens_per_s: Annotated[NonNegativeFloat | None, Field(alias="speed/tokens_per_s")] = None
    """Tokens per second of all GPUs."""
    tflops_per_gpu: Annotated[NonNegativeFloat | None, Field(alias="speed/tflops_per_gpu")] = None
    """Model FLOPs per second and GPU, TFLOP/s."""
    elapsed_s: Annotated[NonNegativeFloat, Field(alias="time/elapsed_s")]
    """Seconds since the start of the run, earlier attempts included."""
    step_s: Annotated[NonNegativeFloat, Field(alias="time/step_s")]
    """Mean step time, s."""
    interval_steps: Annotated[PositiveInt, Field(alias="time/interval_steps")]
    """Steps of the interval."""
    data_s: Annotated[NonNegativeFloat, Field(alias="time/data_s")] = 0.0
    """Waiting for data, s."""
    checkpoint_s: Annotated[NonNegativeFloat, Field(alias="time/checkpoint_s")] = 0.0
    """Time that training waited for checkpoints, s."""
    eval_s: Annotated[NonNegativeFloat, Field(alias="time/eval_s")] = 0.0
    """Evaluating, s."""
    machine_load: Annotated[NonNegativeFloat | None, Field(alias="machine/load")] = None
    """Cores that other processes used; None if unknown."""
    slow_rank: Annotated[SlowRank | None, Field(alias="ranks/slow")] = None
    """The rank that the others waited for in the interval before; None if none was slow."""
    paused: Annotated[bool | None, Field(alias="time/paused")] = None
    """Whether `time/step_s` includes what steps in steady state do not, for an unknown time: the
    capture of a CUDA graph and the steps before it, a suspension of the job, or another trainer's
    checkpoint or evaluation."""
    attempt: PositiveInt
    """The attempt that wrote it."""


class Evaluation(Written):
    """One line of metrics.eval.jsonl."""

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step after which the evaluation ran."""
    loss: Annotated[float | None, Field(alias="eval/loss")]
    """Validation loss, nats per token; None if not finite."""
    bits_per_byte: Annotated[float | None, Field(alias="eval/bits_per_byte")] = None
    """The same in bits per byte of text, comparable between tokenizers."""
    tokens: Annotated[NonNegativeInt | None, Field(alias="eval/tokens")] = None
    """Held-out tokens read."""
    elapsed_s: Annotated[NonNegativeFloat | None, Field(alias="time/elapsed_s")] = None
    """Seconds since the start of the run, earlier attempts included."""
    attempt: PositiveInt = 1
    """The attempt that wrote it."""


class Attempt(Written):
    """One process, or one torchrun, that worked on a run; an interrupted run has several."""

    attempt: PositiveInt
    """1, 2, ..."""
    start: str
    """When it started, ISO 8601."""
    end: str | None = None
    """When it ended; None while it runs, or if it was killed."""
    wall_s: NonNegativeFloat | None = None
    """How long it ran, s; while it runs, or if it was killed, until this was last written."""
    status: Status = "running"
    """How it ended."""
    fingerprint: str
    """Fingerprint of its settings."""
    gpus: PositiveInt | None = None
    """Its processes."""
    hosts: tuple[str, ...] = ()
    """Its machines."""
    first_step: PositiveInt = 1
    """The first step it took."""
    startup: dict[str, NonNegativeFloat | None] = Field(default={})
    """Start-up time by phase, s; `total_s` is from process start to the end of the first step."""
    unrecorded: dict[str, NonNegativeFloat] = Field(default={})
    """Time after its last record, s: `steps_s`, of which `data_s`, then `checkpoint_s` and
    `eval_s`; empty while it runs, or if it was killed."""

    @property
    def startup_s(self) -> float | None:
        """From process start to the end of its first step, s; None if it did not get there."""
        return self.startup.get("total_s")


class Versions(Written):
    """Software of a run."""

    python: str | None = None
    """Version of Python."""
    torch: str | None = None
    """Version of PyTorch."""
    cuda: str | None = None
    """Version of CUDA; None on a CPU."""
    nccl: str | None = None
    """Version of NCCL; None on a CPU."""
    driver: str | None = None
    """Version of the NVIDIA driver; None without one, or without nvidia-ml-py."""


class Layout(Written):
    """How a run is distributed over its processes."""

    dp_replicate: PositiveInt = 1
    """Model replicas."""
    dp_shard: PositiveInt = 1
    """Processes over which each replica is sharded."""
    tp_size: PositiveInt = 1
    """Tensor-parallel processes."""


class UsedChoices(Written):
    """What a run used for settings that are `auto`; see trainer/execution/choices.py."""

    model_dtype: Literal["bf16", "fp32"] | None = None
    compiled: bool | None = None
    fused_projections: bool | None = None
    loss_chunk: NonNegativeInt | None = None
    cpu_matmul: str | None = None
    threads: PositiveInt | None = None
    attention: str | None = None
    cuda_graphs: bool | None = None
    residual_dtype: Literal["bf16", "fp32"] | None = None
    fused_pointwise: bool | None = None
    output_multiple: PositiveInt | None = None
    weight_copies: bool | None = None


class Continued(Written):
    """The checkpoint that a run with `checkpoint.continue_from` began with."""

    path: str
    """Its folder."""
    step: PositiveInt
    """Its step."""
    trajectory: str
    """`RunConfig.trajectory` of the run that wrote it."""


class GpuConditions(Written):
    """The main process's GPU during an attempt, sampled at records; see trainer/gpu_state.py."""

    clock_mhz: NonNegativeFloat
    """Mean clock of the multiprocessors."""
    clock_mhz_min: NonNegativeFloat
    """Lowest clock."""
    clock_mhz_max: NonNegativeFloat
    """Highest clock."""
    power_limit_w: NonNegativeFloat
    """Enforced power limit."""
    power_w: NonNegativeFloat | None = None
    """Mean power draw; None if it was not sampled."""
    limits: tuple[str, ...] = ()
    """What lowered the clock, such as the power limit or the temperature."""


class RunSummary(Written):
    """run.json: written when a run starts, replaced atomically while it runs."""

    id: str | None = None
    """The folder's own; its checkpoints carry it. None in files of older versions."""
    status: Status
    """Status of the run."""
    outcome: Outcome | None = None
    """How a completed run ended: all steps trained, or a loss or weights that are not finite."""
    name: str = "run"
    """Display name."""
    params: PositiveInt
    """Parameters, counted in the model."""
    device: Literal["cuda", "cpu"] | None = None
    """What its processes trained on."""
    gpu_name: str | None = None
    """Name of the GPU, or of the processor."""
    processor: str | None = None
    """Name of the processor of the first machine; None in files of older versions."""
    gpus: PositiveInt | None = None
    """Processes; each has a GPU, or on a CPU `choices.threads` threads."""
    nodes: PositiveInt | None = None
    """Machines."""
    hosts: tuple[str, ...] = ()
    """Names of the machines of the last attempt."""
    addresses: tuple[str, ...] = ()
    """Their IP addresses."""
    layout: Layout = Layout()
    """How the model was distributed over the processes."""
    cores_per_rank: PositiveFloat | None = None
    """CPU cores per process, on the machine with the fewest."""
    machine_cores: PositiveInt | None = None
    """Cores of the first machine that the run may use; `machine_load` is counted on them."""
    machine_load: NonNegativeFloat | None = None
    """Cores of the first machine that other processes used, mean over the attempt."""
    gpu_conditions: GpuConditions | None = None
    """Clock and power limit of the main process's GPU; None on a CPU and without nvidia-ml-py."""
    choices: UsedChoices = UsedChoices()
    """How each `auto` was decided."""
    versions: Versions = Versions()
    """Software of the last attempt."""
    commit: str | None = None
    """Git commit of the trainer."""
    trainer_version: str | None = None
    """Hash of the trainer's sources."""
    fingerprint: str
    """`RunConfig.fingerprint` of the last attempt."""
    trajectory: str | None = None
    """`RunConfig.trajectory` of the run."""
    content: dict[str, str] | None = None
    """Source -> key of its text and tokenizer."""
    training_content: dict[str, str] | None = None
    """The same without the held-out text; None in files of older versions."""
    continued: Continued | None = None
    """Where the run began, if it continues another."""
    attention_context: PositiveFloat | None = None
    """Mean number of keys that a token attends to; None in files of older versions."""
    steps_done: NonNegativeInt = 0
    """Last recorded step."""
    peak_memory_gib: NonNegativeFloat | None = None
    """Peak memory of one process, GiB: GPU memory, or on a CPU its resident memory."""
    loss_final: float | None = None
    """`loss/out` of the last record."""
    loss_validation: float | None = None
    """Last validation loss, nats per token."""
    attempts: Annotated[tuple[Attempt, ...], Field(min_length=1)]
    """All attempts, in order."""


class Failure(Written):
    """failure.json: why the last attempt failed."""

    kind: Literal["configuration", "gpu_out_of_memory", "error"] = "error"
    """Kind of failure."""
    rank: NonNegativeInt = 0
    """The rank that failed first."""
    retry: bool
    """Whether another attempt with the same settings may succeed."""
    message: str
    """Which rank failed and why, and the remedy if known."""
