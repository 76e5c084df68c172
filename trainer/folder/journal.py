"""The output of a running attempt: run.json, records, and progress on the terminal.

Only the main process writes; on other processes every call does nothing.
"""

import math
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trainer.config import RunConfig
from trainer.files import write_atomically
from trainer.folder.record_file import RecordFile
from trainer.folder.run_file import RunFile
from trainer.folder.trackers import Trackers
from trainer.records import (
    CONFIG,
    EVALUATIONS,
    METRICS,
    Attempt,
    Evaluation,
    GpuConditions,
    Record,
    RunSummary,
    Status,
)
from trainer.startup import Startup

BYTES_PER_GIB = 2**30


class Journal:
    """The files of a run, opened for one attempt."""

    def __init__(self, config: RunConfig, folder: Path, step: int, startup: Startup) -> None:
        """`step` is that of the checkpoint, 0 at a run's start."""
        self._config, self._folder, self._step, self._startup = config, folder, step, startup
        self._file: RunFile | None = None

    def open(self, summary: RunSummary, previous: Sequence[Attempt]) -> None:
        """Open the files, on the main process only.

        `summary` contains the new attempt; `previous` are the earlier ones.
        """
        write_atomically(self._folder / CONFIG, self._config.to_yaml())
        self._records = RecordFile(self._folder / METRICS, self._step, self._send)
        self._evaluations = RecordFile(self._folder / EVALUATIONS, self._step, self._send)
        records, evaluations = self._records.last, self._evaluations.last
        # Earlier attempts' results stay until this one has its own.
        results = {
            "loss_final": records.get("loss/out"),
            "loss_validation": evaluations.get("eval/loss"),
        }
        first = 1 + records.get("attempt", 0)  # more than are in a run.json that was lost
        summary = summary.model_copy(update=results)
        self._file = RunFile(
            self._folder, summary, previous, lambda: self._startup.elapsed_s, first
        )
        self._trackers = Trackers(self._config, self._step, self._file.began)

    def _send(self, record: dict[str, Any]) -> None:
        self._trackers.write(record)

    @property
    def attempt(self) -> int:
        """Number of the attempt; 1 on processes that write nothing."""
        return 1 if self._file is None else self._file.attempt.attempt

    def started(self) -> None:
        """Write the start-up times, at the end of the first step."""
        if self._file is not None:
            self._file.write_attempt(startup=self._startup.split)

    def record(
        self,
        record: Record,
        machine_load: float | None = None,
        gpu_conditions: GpuConditions | None = None,
    ) -> None:
        """Write a record, and a line on the terminal; the load and conditions are those so far."""
        if self._file is None:
            return
        self._records.write(record)
        self._file.note(
            steps_done=record.step,
            loss_final=record.loss,
            machine_load=machine_load,
            gpu_conditions=gpu_conditions,
            peak_memory_gib=_peak_memory_gib(record.reserved_gib),
        )
        steps = self._config.steps
        left = int((steps - record.step) * record.step_s)
        print(
            f"step {record.step:>6}/{steps}  loss {_or_nan(record.loss):.4f}  "
            f"lr {record.rate:.2e}  grad norm {_or_nan(record.grad_norm):.2f}  "
            f"{record.tokens_per_s:,.0f} tokens/s  left {left // 60}:{left % 60:02d}",
            flush=True,
        )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Write an evaluation, and a line on the terminal."""
        if self._file is None:
            return
        self._evaluations.write(evaluation)
        self._file.write(loss_validation=evaluation.loss)
        step, steps = evaluation.step, self._config.steps
        print(f"step {step:>6}/{steps}  validation loss {_or_nan(evaluation.loss):.4f}", flush=True)

    def end(
        self, status: Status, unrecorded: Mapping[str, float] | None = None, **changes: Any
    ) -> None:
        """Write the end of this attempt to run.json, once."""
        if self._file is not None and self._file.attempt.status == "running":
            self._file.end(status, unrecorded, **changes)

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            for file in (self._records, self._evaluations, self._trackers):
                file.close()


def reserved_gib(device: torch.device) -> float | None:
    """Return the peak memory that a GPU's allocator has reserved, GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_reserved(device) / BYTES_PER_GIB


def _or_nan(value: float | None) -> float:
    """Return a number of a record; not a number for None, which records have instead."""
    return math.nan if value is None else value


def _peak_memory_gib(of_gpu: float | None) -> float:
    """Return the peak memory so far, GiB: GPU memory, or on a CPU the process's."""
    if of_gpu is not None:
        return of_gpu
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
