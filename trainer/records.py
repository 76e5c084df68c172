"""What a run writes down: one definition for the writer and every reader. Imports no torch.

`Record` is a line of metrics.jsonl, `Evaluation` one of metrics.eval.jsonl, `RunSummary` is
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

Status = Literal["running", "completed", "preempted", "failed"]
Outcome = Literal["trained", "diverged"]


def finite(value: float) -> float | None:
    """Return a number, or None for one that is not finite: JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


class Written(Settings):
    """What a trainer writes. Keys of other versions may stand beside these."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    def to_json(self, indent: int | None = None) -> str:
        """The text in the file."""
        return self.model_dump_json(by_alias=True, indent=indent)

    def to_dict(self) -> dict[str, Any]:
        """The values under their names in the file."""
        return self.model_dump(by_alias=True)


class Record(Written):
    """One line of metrics.jsonl: an interval of steps.

    `time/step_s` has checkpoints and evaluations taken out; waiting for data is a part of it.
    """

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step at the interval's end."""
    loss: Annotated[float | None, Field(alias="loss/out")]
    """Training loss, nats per token, mean over the interval's steps; None if it is not finite."""
    loss_of_step: Annotated[float | None, Field(alias="loss/step")] = None
    """Training loss of the last step alone."""
    rate: Annotated[float | None, Field(alias="optim/lr")] = None
    """Learning rate of the last step."""
    grad_norm: Annotated[float | None, Field(alias="optim/grad_norm")] = None
    """Norm of the last step's gradients, before clipping."""
    tokens: Annotated[PositiveInt, Field(alias="optim/total_tokens")]
    """Tokens since the start of the run."""
    epoch: Annotated[float | None, Field(alias="data/epoch")] = None
    """Passes over the training data, of the source that was read most often."""
    reserved_gib: Annotated[NonNegativeFloat | None, Field(alias="memory/max_reserved_gib")] = None
    """Peak memory that the GPU's allocator has reserved, GiB; None on a CPU."""
    tokens_per_s_per_gpu: Annotated[NonNegativeFloat | None, Field(alias="speed/wps")] = None
    """Tokens a second of one GPU."""
    tokens_per_s: Annotated[NonNegativeFloat | None, Field(alias="speed/tokens_per_s")] = None
    """Tokens a second of all GPUs."""
    tflops_per_gpu: Annotated[NonNegativeFloat | None, Field(alias="speed/tflops_per_gpu")] = None
    """Model FLOPs of one GPU, TFLOP/s."""
    elapsed_s: Annotated[NonNegativeFloat, Field(alias="time/elapsed_s")]
    """Seconds since the start of the run, earlier attempts included."""
    step_s: Annotated[NonNegativeFloat, Field(alias="time/step_s")]
    """Mean time of a step, s."""
    interval_steps: Annotated[PositiveInt, Field(alias="time/interval_steps")]
    """Steps of the interval."""
    data_s: Annotated[NonNegativeFloat, Field(alias="time/data_s")] = 0.0
    """Waiting for data, s."""
    checkpoint_s: Annotated[NonNegativeFloat, Field(alias="time/checkpoint_s")] = 0.0
    """Saving, as far as training waited for it, s."""
    eval_s: Annotated[NonNegativeFloat, Field(alias="time/eval_s")] = 0.0
    """Evaluating, s."""
    machine_load: Annotated[NonNegativeFloat | None, Field(alias="machine/load")] = None
    """Cores' worth of CPU time that other processes took; None if it is not known."""
    attempt: PositiveInt
    """The attempt that wrote it."""


class Evaluation(Written):
    """One line of metrics.eval.jsonl."""

    step: Annotated[PositiveInt, Field(alias="global_step")]
    """Step after which the held-out text was read."""
    loss: Annotated[float | None, Field(alias="eval/loss")]
    """Validation loss, nats per token; None if it is not finite."""
    bits_per_byte: Annotated[float | None, Field(alias="eval/bits_per_byte")] = None
    """The same in bits per byte of text, which compares tokenizers."""
    tokens: Annotated[NonNegativeInt | None, Field(alias="eval/tokens")] = None
    """Tokens that were read."""
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
    """How long it ran, s; None while it runs, or if it was killed."""
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
    """Where its start went, s; `total_s` is from process start to the end of the first step."""

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


class Layout(Written):
    """How a run is spread over its processes."""

    dp_replicate: PositiveInt = 1
    """Copies of the model."""
    dp_shard: PositiveInt = 1
    """Processes that share the weights of each copy."""
    tp_size: PositiveInt = 1
    """Processes that share each matrix."""


class UsedChoices(Written):
    """What a run used where its settings say `auto`; see trainer/execution/choices.py."""

    model_dtype: Literal["bf16", "fp32"] | None = None
    compiled: bool | None = None
    fused_projections: bool | None = None
    loss_chunk: NonNegativeInt | None = None
    cpu_matmul: str | None = None
    threads: PositiveInt | None = None
    attention: str | None = None


class RunSummary(Written):
    """run.json: written when a run starts, replaced atomically as it goes on."""

    status: Status
    """Where the run stands."""
    outcome: Outcome | None = None
    """How a completed run ended: all its steps, or a loss that is not finite."""
    name: str = "run"
    """Label for people."""
    params: PositiveInt
    """Parameters, as the run counted them."""
    device: Literal["cuda", "cpu"] | None = None
    """What its processes trained on."""
    gpu_name: str | None = None
    """GPU, or processor, as the machine names it."""
    gpus: PositiveInt | None = None
    """Processes; each has a GPU, or on a CPU `choices.threads` threads."""
    nodes: PositiveInt | None = None
    """Machines."""
    hosts: tuple[str, ...] = ()
    """Their names, in the last attempt."""
    addresses: tuple[str, ...] = ()
    """What their names lead to."""
    layout: Layout = Layout()
    """How the model was spread over the processes."""
    cores_per_rank: PositiveFloat | None = None
    """CPU cores of a process, on the machine that has least."""
    machine_cores: PositiveInt | None = None
    """Cores of the first machine that the run may use, over which its load is counted."""
    machine_load: NonNegativeFloat | None = None
    """Cores' worth of CPU time that other processes took there, mean over the attempt."""
    choices: UsedChoices = UsedChoices()
    """What `auto` stood for."""
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
    attention_context: PositiveFloat | None = None
    """Mean number of keys that a token attends to; None if the trainer did not write it yet."""
    steps_done: NonNegativeInt = 0
    """Last step that was recorded."""
    peak_memory_gib: NonNegativeFloat | None = None
    """Peak memory of one process, GiB: of its GPU, or on a CPU of all it holds."""
    loss_final: float | None = None
    """`loss/out` of the last record."""
    loss_validation: float | None = None
    """Last validation loss, nats per token."""
    attempts: Annotated[tuple[Attempt, ...], Field(min_length=1)]
    """All attempts, in order."""


class Failure(Written):
    """failure.json: what the last attempt died of."""

    kind: Literal["configuration", "gpu_out_of_memory", "error"] = "error"
    """What sort of failure it is."""
    rank: NonNegativeInt = 0
    """The rank that failed first."""
    retry: bool
    """Whether another attempt, with the same settings, may end otherwise."""
    message: str
    """Which rank failed, of what, and what helps if that is known."""
