"""Rows of throughput.csv: their type, and the only reader of the file."""

from dataclasses import dataclass
from pathlib import Path

from study.csv_tables import read_as
from study.points import CELL_NAME
from study.trainers import DEFAULT_TRAINER
from trainer.execution.choices import Dtype


@dataclass(frozen=True, kw_only=True)
class ThroughputRow:
    """The measurements of one run. An unknown value is None, an empty cell in the file, never 0."""

    cluster: str
    """Machine or partition, a name in clusters.yaml."""
    gpu_name: str | None
    """GPU or CPU, from run.json."""
    model: str
    """Shape, a name in models.yaml."""
    params: int
    """Parameters, the embeddings included."""
    gpus: int
    """GPUs of the run; a CPU process counts as one."""
    nodes: int
    variant: str
    """Named overrides of the settings; `base` has none."""
    seed: int
    """Seed of the weights and of the order of the data."""
    seq_len: int
    batch_size_per_gpu: int
    """Sequences in a micro-batch."""
    grad_acc_steps: int
    """Micro-batches in a step."""
    tokens_per_step: int
    """Tokens of one optimizer step, over all GPUs: the global batch."""
    steps: int
    steady_steps: int
    """Steps in steady state, to which the step times refer."""
    step_ms_p50: float | None = None
    """Median step time, ms."""
    step_ms_p90: float | None = None
    """90th percentile of the step time, ms."""
    tokens_per_s: float | None = None
    """Tokens per second of all GPUs, at the median step time."""
    tokens_per_s_per_gpu: float | None = None
    """Tokens per second and GPU, at the median step time."""
    tflops_per_gpu: float | None = None
    """Model FLOPs of one GPU, TFLOP/s."""
    mfu: float | None = None
    """Fraction of the peak, at 6N + 24*L*q*c FLOPs per token; see trainer.flops."""
    mfu_causal: float | None = None
    """Fraction of the peak, at 6N + 12*L*q*c FLOPs per token."""
    scaling_efficiency: float | None = None
    """Tokens/s/GPU over that of `efficiency_reference`."""
    peak_memory_gib: float | None = None
    """Peak memory of one GPU, or on a CPU of one process, GiB."""
    startup_s: float | None = None
    """From process start to the end of the first step."""
    wall_s: float | None = None
    """Duration of the whole run, over all attempts."""
    loss_first: float | None = None
    """Training loss of the first record, nats per token."""
    loss_last: float | None = None
    """Training loss of the last record, the mean over its interval."""
    status: str
    """How the run ended: completed, diverged, preempted, failed, or running."""
    torch_version: str | None = None
    commit: str | None = None
    val_loss: float | None = None
    """Last loss on held-out text, nats per token."""
    attempts: int
    measured_with: str | None = None
    """Version of the trainer."""
    outcome: str | None = None
    started: str
    """Start of the last attempt, ISO 8601."""
    step_ms_p10: float | None = None
    """10th percentile of the step time, ms."""
    fingerprint: str
    """`RunConfig.fingerprint` of the run."""
    roofline_fraction: float | None = None
    """Speed over the roofline's."""
    efficiency_reference: str | None = None
    """The run that `scaling_efficiency` compares with, which is empty if it ran on another GPU."""
    step_spread: float | None = None
    """(p90 - p10) / p50 of the step time."""
    machine_load: float | None = None
    """CPU time of other processes in steady state, in cores."""
    machine_cores: int | None = None
    """Cores available to the run, on which `machine_load` is counted."""
    device: str | None = None
    """cuda or cpu."""
    threads: int | None = None
    """CPU threads of a process."""
    model_dtype: Dtype | None = None
    """dtype of the forward and backward pass."""
    compiled: bool | None = None
    attention: str | None = None
    """Attention kernel."""
    speed_key: str | None = None
    """Digest of what can change the run's speed: `RunConfig.speed_key`, and several nodes."""
    first_step: int | None = None
    """The first step that the run took itself: more than 1 if it continues another run."""
    step_ms_mean: float | None = None
    """Mean step time, ms; it gives the time of all steps together."""
    step_ms_mean_error: float | None = None
    """Standard error of the mean, from the spread of the intervals; None with only one."""
    trainer: str = DEFAULT_TRAINER
    """Name of its trainer in trainers.yaml."""
    plain_variant: str | None = None
    """The variant's name without the trainer's."""
    began_again: bool | None = None
    """Whether an attempt began again at the first step, as the trainer does not resume."""
    steady_intervals: int | None = None
    """Intervals in steady state: the steps between two records each."""
    steps_done: int | None = None
    """Last step that was recorded."""
    text: str | None = None
    """Digest of the text that the run read, to train on and held out, as tokens."""
    other_text: str | None = None
    """The newest run that reads the same sources, if their text was another then."""

    @property
    def cell_name(self) -> str:
        """Name of the cell."""
        return CELL_NAME.format(**vars(self))


def read_rows(csv_path: str | Path) -> list[ThroughputRow]:
    """Return the rows of a throughput.csv; a column missing from an older file is None.

    Raises ConfigError if the file cannot be read, or is not a throughput table.
    """
    return read_as(csv_path, ThroughputRow, "a throughput table", "throughput")
